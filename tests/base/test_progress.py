"""Progress lines, by a clock that the tests move; on a terminal and elsewhere."""

import importlib
import io
import subprocess
import sys
import time

import pytest

from mae.base import live_line, progress
from mae.base.live_line import ERASE
from mae.base.output import guarded_output, print_error, silent
from mae.base.progress import ProgressLine, ShownWork, busy, duration, shown_imports


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def taken(self) -> str:
        """What was written since the last call; | erases the line."""
        text = self.getvalue().replace(ERASE, "|")
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ShownWork, "printed_at", 0.0)
    return now


@pytest.fixture
def on_terminal(monkeypatch):
    """Call that makes standard error a terminal, as pytest replaces it between fixture and test."""

    def begin() -> Terminal:
        monkeypatch.setattr(sys, "stderr", shown := Terminal())
        return shown

    yield begin
    live_line.end()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_one_line_on_a_terminal_from_two_seconds_on(clock, on_terminal):
    terminal = on_terminal()
    show = ProgressLine("indexing", "shards")
    for seconds, done in ((0, 40), (1, 41), (2, 42), (2.1, 43), (4, 50), (20, 100)):
        clock[0] = 100 + seconds
        show(done, 100, ", so far")
    assert terminal.taken().split("|") == [
        "",
        "indexing: 42/100 shards, so far  1 shards/s  ETA 0:58",
        "indexing: 50/100 shards, so far  2.5 shards/s  ETA 0:20",
        "indexing: 100/100 shards, so far  3 shards/s  took 0:20\n",
    ]


def test_short_work_shows_nothing(clock, on_terminal):
    terminal = on_terminal()
    show = ProgressLine("indexing", "shards")
    for seconds, done in ((0, 0), (1, 50), (1.4, 100)):
        clock[0] = 100 + seconds
        show(done, 100)
    assert terminal.taken() == ""


def test_a_line_every_ten_seconds_elsewhere(clock, capsys):
    said = []
    line = ProgressLine("encoding", "images", said.append)
    for seconds, done in ((0, 40), (9, 41), (10, 50), (12, 52), (20, 60), (25, 100), (26, 100)):
        clock[0] = 100 + seconds
        line(done, 100)
    assert said == [
        "encoding: 50/100 images  1 images/s  ETA 0:50",
        "encoding: 60/100 images  1 images/s  ETA 0:40",
        "encoding: 100/100 images  2.4 images/s  took 0:25",
    ]
    nothing = ProgressLine("encoding", "images", silent)
    for seconds, done in ((30, 0), (60, 100)):
        clock[0] = 100 + seconds
        nothing(done, 100)
    assert capsys.readouterr() == ("", "")


def test_silence_of_a_command_counts_from_its_last_output(clock, capsys):
    with guarded_output():
        clock[0] += 9
        work = ProgressLine("fitting", "rounds")
        work(0, 9)
        clock[0] += 2
        work(1, 9)  # two seconds of its own, eleven of silence
        clock[0] += 8
        print_error("a message")
        clock[0] += 8
        work(2, 9)
    assert capsys.readouterr().err == "fitting: 1/9 rounds  0.5 rounds/s  ETA 0:16\na message\n"


def test_other_output_is_never_on_the_same_line(clock, on_terminal, monkeypatch):
    terminal = on_terminal()
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with guarded_output():
        show = ProgressLine("indexing", "shards")
        show(0, 3)
        clock[0] += 3
        show(1, 3)
        print("a result")
        show(2, 3)
        clock[0] += 1
        show(3, 3)
        print_error("mae: an error")
    drawn = terminal.taken().split("|")
    assert drawn[1].startswith("indexing: 1/3") and drawn[2] == ""  # erased before the result
    assert drawn[3].startswith("indexing: 3/3") and drawn[3].endswith("\nmae: an error\n")
    assert out.taken() == "a result\n"


def test_work_of_unknown_length_ticks(on_terminal, monkeypatch):
    terminal = on_terminal()
    monkeypatch.setattr("mae.base.progress.APPEARS", 0.05)
    monkeypatch.setattr("mae.base.progress.REDRAWN", 0.02)
    monkeypatch.setattr("mae.base.progress.TICK", 0.02)
    with busy("building the model"), busy("fitting the probe"):
        time.sleep(0.3)
    shown = terminal.taken().split("|")
    assert shown[1] == "fitting the probe: 0 s" and len(shown) > 3
    assert shown[-1] == "fitting the probe: 0 s\n"  # the outer one was not shown
    with pytest.raises(ValueError), busy("fitting the probe"):
        raise ValueError
    assert not ShownWork.entered


def test_only_the_first_process_shows_it(clock, on_terminal, monkeypatch):
    terminal = on_terminal()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    show = ProgressLine("indexing", "shards")
    show(0, 2)
    clock[0] += 5
    show(1, 2)
    assert terminal.taken() == ""


def test_imports_of_large_libraries_are_shown_and_unchanged(tmp_path, monkeypatch, on_terminal):
    terminal = on_terminal()
    (tmp_path / "large_library.py").write_text("import time\ntime.sleep(0.2)\nvalue = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("APPEARS", "TICK", "REDRAWN"):
        monkeypatch.setattr(f"mae.base.progress.{name}", 0.05)
    before = list(sys.meta_path)
    with shown_imports(["large_library"]):
        import large_library  # pyrefly: ignore[missing-import]
    assert large_library.value == 7 and sys.meta_path == before
    assert type(large_library.__spec__.loader).__name__ == "SourceFileLoader"
    assert "loading large_library: 0 s" in terminal.taken()


def test_a_forked_worker_may_print_while_its_parent_shows_work():
    """The lock of the line is not held in the child."""
    program = """
import os, sys, time
from mae.base import live_line, progress
from mae.base.output import guarded_output
from mae.base.progress import busy
import mae.base.progress as progress
progress.APPEARS = progress.TICK = progress.REDRAWN = 0.0005
sys.stderr.isatty = lambda: True
with guarded_output(), busy("working"):
    for _ in range(40):
        if (child := os.fork()) == 0:
            print("from the child", file=sys.stderr)
            os._exit(0)
        os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stderr.count(b"from the child") == 40


def test_libraries_that_another_only_looks_for_are_not_loaded(tmp_path, monkeypatch):
    (tmp_path / "seeker.py").write_text("try:\n    import sought\nexcept ImportError:\n    pass\n")
    (tmp_path / "sought.py").write_text("is_loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(progress.UNUSED, "seeker", ("sought",))
    with shown_imports(["seeker"]):
        importlib.import_module("seeker")
    assert "sought" not in sys.modules
    assert importlib.import_module("sought").is_loaded
    assert progress.UNUSED["timm"] == ("wandb",)
