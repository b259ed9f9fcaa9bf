"""Folder of the parts of divided work."""

import re

import pytest

from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.parts_folder import PLAN, array_counts
from mae.base.portion import ALONE, Portion

TASK, JOIN = Portion(0, 2, is_task=True), Portion(is_join=True)


def silent(*_):
    pass


def begin(out, portion=ALONE, plan="a", log=silent):
    """Work that ends with an error after its first part."""
    with divided_work(out, plan, portion, log) as work:
        work.do("part", [1, 1], lambda numbers: [(numbers[0], b"x")], silent)
        raise UserError("bad")


def refused(out, portion, plan="a", log=silent):
    with pytest.raises(UserError) as error, divided_work(out, plan, portion, log):
        pass
    return str(error.value)


def test_starting_over_is_said(tmp_path):
    said = []
    with pytest.raises(UserError):
        begin(tmp_path / "out")
    with divided_work(tmp_path / "out", "b", ALONE, said.append) as work:
        assert {path.name for path in work.folder.iterdir()} == {"plan", "lock"}
    assert said == [f"{tmp_path}/.out.parts: holds parts of other data or options: starting over"]


def test_folders_that_a_killed_process_was_deleting_are_deleted(tmp_path):
    for name in (".out.parts.0123abcd", ".out.parts.kept", ".other.parts.0123abcd"):
        (tmp_path / name).mkdir()
    with divided_work(tmp_path / "out", "a", ALONE, silent):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        ".out.parts.kept",
        ".other.parts.0123abcd",
    }


def test_parts_of_an_interrupted_deletion_belong_to_no_plan(tmp_path):
    with pytest.raises(UserError):
        begin(tmp_path / "out")
    (tmp_path / ".out.parts" / PLAN).write_text("")
    assert "other data or options" in refused(tmp_path / "out", TASK)
    with divided_work(tmp_path / "out", "a", ALONE, silent) as work:
        assert {path.name for path in work.folder.iterdir()} == {"plan", "lock"}


def test_another_plan_does_not_delete_the_parts_of_a_job_array(tmp_path):
    with pytest.raises(UserError, match="bad"):
        begin(tmp_path / "out", TASK)
    (tmp_path / ".out.parts" / "half.part").touch()  # a task may be writing it
    message = refused(tmp_path / "out", ALONE, plan="b")
    assert "holds parts of other data or options" in message and "delete the folder" in message
    with pytest.raises(UserError, match="bad"):
        begin(tmp_path / "out")
    names = {
        re.sub(r"-[0-9a-f]{8}-", "-", path.name) for path in (tmp_path / ".out.parts").iterdir()
    }
    assert names == {"plan", "lock", "array-2", "part-000000", "part-000001", "half.part"}


def test_a_refused_task_is_none_of_the_array(tmp_path):
    with divided_work(tmp_path / "out", "a", TASK, silent) as work:
        pass
    refused(tmp_path / "out", Portion(0, 3, is_task=True), plan="b")
    assert array_counts(work.folder) == [2]


def test_nothing_of_a_running_command_is_deleted_by_one_that_is_interrupted(tmp_path, monkeypatch):
    """While it waits, or is refused."""

    def interrupt(seconds):
        raise KeyboardInterrupt

    with divided_work(tmp_path / "out", "a", ALONE, silent) as work:
        monkeypatch.setattr("mae.base.parts_folder.time.sleep", interrupt)
        with (
            pytest.raises(KeyboardInterrupt),
            divided_work(tmp_path / "out", "a", ALONE, silent),
        ):
            pass
        refused(tmp_path / "out", JOIN, plan="b")
        assert (work.folder / PLAN).exists()


def test_a_join_without_a_job_array_names_the_command(tmp_path):
    with (
        pytest.raises(UserError, match="bad"),
        divided_work(tmp_path / "out", "a", ALONE, silent) as work,
    ):
        work._write("part", 0, b"x")
        raise UserError("bad")
    said = []
    with pytest.raises(UserError, match=r"1 of 2 parts are missing: run .* command without --join"):
        begin(tmp_path / "out", JOIN, log=said.append)
    assert not said
