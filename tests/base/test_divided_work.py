"""Work divided among processes."""

import multiprocessing
import re
import shutil
import time

import pytest

from mae.base.divided_work import MOST_PARTS, divided_work, part_sizes
from mae.base.errors import RunFailed, UserError
from mae.base.portion import ALONE, Portion
from tests.runs import completed, forked

SIZES = [2, 2, 2, 1]


class Recorder:
    """Work that records the parts that it does, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.done, self.fails_at = [], fails_at

    def __call__(self, numbers):
        for number in numbers:
            if number == self.fails_at:
                raise UserError("bad")
            self.done.append(number)
            yield number, b"%d" % number


def silent(*_):
    pass


def run(out, portion=ALONE, work=None, plan="a", log=silent, show=silent):
    """Join of all parts, or None in a process that does not join."""
    with divided_work(out, plan, portion, log) as parts:
        parts.do("part", SIZES, work or Recorder(), show)
        if portion.joins:
            return b" ".join(parts.results("part", len(SIZES)))


def test_parts_are_joined_in_order_and_no_folder_stays(tmp_path):
    shown = []
    assert run(tmp_path / "out", show=lambda *pair: shown.append(pair)) == b"0 1 2 3"
    assert shown[0] == (0, 7) and shown[-1] == (7, 7)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_one_goes_on_where_it_was(tmp_path):
    out, said = tmp_path / "out", []
    with pytest.raises(UserError, match="bad"):
        run(out, work=Recorder(fails_at=2), log=said.append)
    assert "keeps the finished parts" in said[-1]
    work = Recorder()
    assert run(out, work=work, log=said.append) == b"0 1 2 3"
    assert work.done == [2, 3] and "resuming, 2 parts are done" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_where_no_part_was_done(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path / "out", work=Recorder(fails_at=0))
    assert list(tmp_path.iterdir()) == []


def test_parts_of_another_plan_are_not_used(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path / "out", work=Recorder(fails_at=2))
    work = Recorder()
    run(tmp_path / "out", work=work, plan="b")
    assert work.done == [0, 1, 2, 3]


def test_a_damaged_part_is_deleted_and_done_again(tmp_path):
    with pytest.raises(UserError):
        run(tmp_path / "out", work=Recorder(fails_at=2))
    (file,) = (tmp_path / ".out.parts").glob("part-*-000001")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunFailed, match="damaged, as 1 in all, which were deleted"):
        run(tmp_path / "out")
    work = Recorder()
    assert run(tmp_path / "out", work=work) == b"0 1 2 3"
    assert work.done == [1]


def test_drained_parts_count_as_done_and_take_no_room(tmp_path):
    out, said = tmp_path / "out", []
    with pytest.raises(UserError), divided_work(out, "a", ALONE, silent) as parts:
        parts.do("part", SIZES, Recorder(), silent)
        parts.drain("part", 1, {"rows": 2})
        parts.drain("part", 3, {"rows": 6})
        raise UserError("interrupted")
    assert len(list(out.with_name(".out.parts").glob("part-*"))) == 1
    work = Recorder()
    with divided_work(out, "a", ALONE, said.append) as parts:
        parts.do("part", SIZES, work, silent)
        assert parts.drained("part") == (3, {"rows": 6})
        assert list(parts.results("part", 4, 3)) == [b"3"]
    assert work.done == [] and "resuming, 4 parts are done" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_outdated_parts_and_damaged_ones_are_done_again(tmp_path):
    out, found = tmp_path / "out", []

    def outdated(parts):
        found.extend(parts)
        return [0]

    with pytest.raises(UserError):
        run(out, work=Recorder(fails_at=3))
    (file,) = (tmp_path / ".out.parts").glob("part-*-000001")
    file.write_bytes(b"cut")
    work = Recorder()
    with divided_work(out, "a", ALONE, silent) as parts:
        parts.drop_outdated("part", len(SIZES), outdated)
        parts.do("part", SIZES, work, silent)
    assert found == [(0, b"0"), (2, b"2")] and work.done == [0, 1, 3]


def test_the_join_refuses_outdated_parts_and_a_task_looks_at_its_own_only(tmp_path):
    out, join = tmp_path / "out", Portion(is_join=True)
    for number in (0, 1):
        run(out, Portion(number, 2, is_task=True))
    with pytest.raises(UserError, match=r"1 of 4 parts .* changed since.*--part 2/2, then"):  # noqa: SIM117
        with divided_work(out, "a", join, silent) as parts:
            parts.drop_outdated("part", len(SIZES), lambda found: [n for n, _ in found if n == 2])
    seen = []

    def none(found):
        seen.extend(number for number, _ in found)
        return ()

    with divided_work(out, "a", Portion(1, 2, is_task=True), silent) as parts:
        parts.drop_outdated("part", len(SIZES), none)
    assert seen == [3]


def test_tasks_of_a_job_array_in_any_order_then_the_join(tmp_path):
    out, join = tmp_path / "out", Portion(is_join=True)
    with pytest.raises(UserError, match="holds no parts"):
        run(out, join)
    for number in (2, 0):
        assert run(out, Portion(number, 3, is_task=True)) is None
    missing = r"1 of 4 parts are missing: run the same command with --part 2/3, then --join"
    with pytest.raises(UserError, match=missing):
        run(out, join)
    with pytest.raises(UserError, match="other data or options"):
        run(out, Portion(1, 3, is_task=True), plan="b")
    with pytest.raises(UserError, match="other data or options"):
        run(out, join, plan="b")
    run(out, Portion(1, 3, is_task=True))
    assert run(out, join) == b"0 1 2 3"
    assert list(tmp_path.iterdir()) == []


def test_missing_tasks_are_named_without_those_that_have_no_parts(tmp_path):
    run(tmp_path / "out", Portion(0, 400, is_task=True))
    with pytest.raises(
        UserError, match=re.escape("--part 101/400, --part 201/400, --part 301/400, then")
    ):
        run(tmp_path / "out", Portion(is_join=True))


def test_tasks_that_need_all_parts_do_those_of_others_in_any_order(tmp_path):
    done, found = {}, {}
    for number in (2, 0, 1):
        portion, work = Portion(number, 3, is_task=True), Recorder()
        with divided_work(tmp_path / "out", "a", portion, silent) as parts:
            parts.do("part", SIZES, work, silent, needs_all=True)
            found[number] = parts.once("sum", lambda: b"by %d" % number)  # noqa: B023
        done[number] = work.done
    assert done == {2: [3, 0, 1, 2], 0: [], 1: []}
    assert set(found.values()) == {b"by 2"}


def test_tasks_show_their_own_parts(tmp_path):
    shown = []
    run(tmp_path / "out", Portion(0, 2, is_task=True), show=lambda *pair: shown.append(pair))
    assert shown == [(0, 4), (4, 4)]


def test_tasks_of_another_number_go_on_and_the_fewest_missing_ones_are_named(tmp_path):
    out, join = tmp_path / "out", Portion(is_join=True)
    run(out, Portion(0, 2, is_task=True))
    run(out, Portion(3, 4, is_task=True))
    with pytest.raises(UserError, match=r"1 of 4 parts are missing: .* with --part 2/2, then"):
        run(out, join)
    run(out, Portion(2, 4, is_task=True))
    assert run(out, join) == b"0 1 2 3"


def test_a_second_command_waits_for_the_first(tmp_path, monkeypatch):
    """And does the work itself: `divided_work` asks its callers to look again."""
    monkeypatch.setattr("mae.base.parts_folder.SILENT_SECONDS", 0.2)
    said, entered = [], multiprocessing.Event()

    def first():
        with divided_work(tmp_path / "out", "a", ALONE, silent):
            entered.set()
            time.sleep(0.5)

    process = multiprocessing.get_context("fork").Process(target=first)
    process.start()
    assert entered.wait(10)
    assert run(tmp_path / "out", log=said.append) == b"0 1 2 3"
    process.join()
    assert "waiting for another command" in said[0] and process.exitcode == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="out: cannot be written"):
        run(tmp_path / "file" / "out")


def test_sizes_of_parts():
    assert part_sizes(0, 4) == []
    assert part_sizes(9, 4) == [4, 4, 1]
    sizes = part_sizes(10**9 + 1, 256)
    assert len(sizes) <= MOST_PARTS and sum(sizes) == 10**9 + 1 and sizes[0] % 256 == 0


PROGRAM = """
import os, sys
from pathlib import Path
from mae.base import parts_folder as module
from mae.base.divided_work import divided_work
from mae.base.portion import launched_portion, leave_launch
from mae.base.errors import PartDone, UserError, RunFailed

folder, portion = Path(sys.argv[1]), launched_portion()
module.SIGHT_SECONDS = 0.5

def work(numbers):
    for number in numbers:
        yield number, f"{number}:{portion.number}".encode()

with divided_work(folder / "out", "plan", portion, print) as parts:
    parts.do("part", [1] * 4, work, lambda done, total: None)
    shared = parts.once("fit", lambda: b"by %d" % portion.number)
    joined = b" ".join(parts.results("part", 4)) if portion.joins else b""
for name, plan, out in (
    ("plan", f"plan of {portion.number}", folder / "out"),
    ("sight", "plan", folder / f"machine{portion.number}" / "out"),
):
    try:
        with divided_work(out, plan, portion, print):
            pass
    except UserError as error:
        (folder / f"{name}-{portion.number}").write_text(str(error))
def fail(number):
    raise UserError(f"error of {number}")

def error_of(call):
    try:
        call()
    except (UserError, PartDone) as error:
        return f"{type(error).__name__} {error}"

own = UserError(f"error of {portion.number}")
answers = [
    portion.from_first(lambda: portion.number),
    error_of(lambda: portion.from_first(lambda: fail(portion.number))),
    error_of(lambda: portion.raise_common(own if portion.number else None)),
    error_of(lambda: portion.raise_common(own)),
    error_of(lambda: portion.raise_common(None)),
]
(folder / f"answers-{portion.number}").write_text(repr(answers))
(folder / f"joined-{portion.number}").write_text((joined + b"; " + shared).decode())
portion.meet()
if portion.number:
    os._exit(0)
try:
    portion.meet()
except RunFailed as error:
    (folder / "stopped").write_text(str(error))
leave_launch()
"""


def test_two_processes(tmp_path):
    """Parts of both, a common result, refusals, and the death of one."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = completed(forked(str(program), str(tmp_path)))
    assert done.returncode == 0, done.stderr

    def text(name):
        return (tmp_path / name).read_text()

    assert text("joined-0") == "0:0 1:0 2:1 3:1; by 0" and text("joined-1") == "; by 0"
    for number in "01":
        assert "process 1 of 2 found other data or options" in text(f"plan-{number}")
        assert "machine" in text(f"sight-{number}") and "by process 1 of 2" in text(
            f"sight-{number}"
        )
    first, second = "UserError error of 0", "UserError error of 1"
    assert text("answers-0") == repr([0, first, second, first, None])
    assert text("answers-1") == repr([0, *["PartDone "] * 3, None])
    assert "another process of this launch has stopped" in text("stopped")


def test_parts_that_a_late_task_of_another_plan_left_are_not_joined(tmp_path):
    out, join = tmp_path / "out", Portion(is_join=True)
    with divided_work(out, "a", Portion(0, 2, is_task=True), silent) as parts:
        (tmp_path / ".out.parts" / "plan").unlink()  # as where the join has deleted the folder
        parts.do("part", SIZES, Recorder(), silent)
    run(out, Portion(1, 2, is_task=True), plan="b")
    with pytest.raises(UserError, match=r"2 of 4 parts are missing.*--part 1/2"):
        run(out, join, plan="b")


def test_a_task_that_comes_after_the_join_says_so(tmp_path):
    with pytest.raises(UserError, match="was joined, or deleted, meanwhile"):  # noqa: SIM117
        with divided_work(tmp_path / "out", "a", Portion(0, 1, is_task=True), silent) as parts:
            parts.do("part", SIZES, joined_meanwhile(tmp_path), silent)
    assert not (tmp_path / ".out.parts").exists()


def joined_meanwhile(folder):
    def work(numbers):
        for number in numbers:
            shutil.rmtree(folder / ".out.parts", ignore_errors=True)
            yield number, b""

    return work


def test_all_damaged_parts_are_found_at_once(tmp_path):
    out = tmp_path / "out"
    for number in (0, 1):
        run(out, Portion(number, 2, is_task=True))
    for file in sorted((tmp_path / ".out.parts").glob("part-*"))[1:3]:
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 4 parts are missing.*--part 1/2, --part 2/2, then"):
        run(out, Portion(is_join=True))
