"""Standard output and error, guarded; and lost, by real pipes and devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mae.base.output import guarded_output

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3tW0rd"
PRINTS = """
import sys
from mae.base.exit_status import exit_code
def work():
    for number in range(100_000):
        print(number)
    print("done", file=sys.stderr)
sys.exit(exit_code(work))
"""


def shell(line: str, script: str = PRINTS) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; `$PRINT` is the command that prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SCRIPT": script}
    line = line.replace("$PRINT", f'{sys.executable} -c "$SCRIPT"')
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)


def test_a_closed_pipe_is_silent_and_the_work_is_done():
    done = shell("$PRINT | head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "0\n", "done\n")


def test_a_full_device_is_one_line():
    done = shell("$PRINT > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "done\nmae: standard output: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "2>&- <&-"])
def test_closed_files_are_not_taken_by_others(closed, tmp_path):
    """What is opened first would be standard output otherwise, and be written into."""
    script = f"""
import os, sys
from mae.base.exit_status import exit_code
def work():
    with open({str(tmp_path / "data")!r}, "w") as file:
        print("to standard output")
        print("to standard errors", file=sys.stderr)
        os.system("echo by another program; echo by another program >&2")
        file.write("data")
sys.exit(exit_code(work))
"""
    done = shell(f"$PRINT {closed}", script)
    assert done.returncode == 0
    assert (tmp_path / "data").read_text() == "data"


def test_help_through_a_pipe_is_silent():
    done = shell(f"{sys.executable} -m mae --help | head -1; true")
    assert done.stdout.startswith("usage: mae") and done.stderr == ""


def test_what_follows_a_failure_is_in_the_folder(tmp_path, monkeypatch):
    before = sys.stdout
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with guarded_output(lambda: tmp_path) as out:
            print("one", flush=True)
            with guarded_output():
                print("two", flush=True)
            assert isinstance(out.error, OSError)
        assert sys.stdout is full
        monkeypatch.undo()
    assert sys.stdout is before
    assert (tmp_path / "output.log").read_text() == "one\ntwo\n"


def test_output_is_without_secrets_and_control_characters(capsys):
    with guarded_output(), guarded_output():
        print(f"got https://h/a.tar?sig={SECRET}\tkey a\rmae: all good")
        print("\r\x1b[Kstep 3", end="", file=sys.stderr)
        print("\x1b[2J", file=sys.stderr)
    print("\x1b[1m")
    printed = capsys.readouterr()
    assert printed.out == "got https://h/a.tar\tkey a\\rmae: all good\n\x1b[1m\n"
    assert printed.err == "\r\x1b[Kstep 3\\x1b[2J\n"


def test_the_traceback_of_an_error_is_guarded_too():
    code = f"""
from mae.base.output import guarded_output
with guarded_output():
    raise ValueError("cannot open https://h/a.tar?sig={SECRET}\\r all good")
"""
    words = [sys.executable, "-c", code.replace(SECRET, "' + 's3cr3t' + 'W0rd")]
    words[-1] = words[-1].replace('"cannot', "'cannot").replace('good"', "good'")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: cannot open https://h/a.tar\\r all good\n")
    assert SECRET not in done.stderr
