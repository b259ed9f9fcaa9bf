"""Exit of a command: what still happens, and what is left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, ctypes, logging.handlers, sys, threading, time
from mae.base.quick_exit import exit_quickly

class Kept:
    def __del__(self):
        print("cleaned")

def late():
    time.sleep(0.3)
    print("thread")

def main():
    global kept
    kept = Kept()
    atexit.register(print, "handler")
    memory = logging.handlers.MemoryHandler(9, target=logging.StreamHandler(sys.stdout))
    logging.getLogger().addHandler(memory)
    logging.warning("logged")
    threading.Thread(target=late).start()
    ctypes.CDLL(None).printf(b"library\\n")
    {last}

exit_quickly(main)
"""
USUAL = {"WORLD_SIZE": "1", "PYTHONUNBUFFERED": ""}
DONE = ["handler", "library", "logged", "thread"]


def ended(last, environment=None, **streams):
    command = [sys.executable, "-c", PROGRAM.replace("{last}", last)]
    environment = os.environ | USUAL | (environment or {})
    return subprocess.run(command, env=environment, text=True, stderr=subprocess.PIPE, **streams)


@pytest.mark.parametrize("code", [0, 75])
def test_threads_handlers_and_buffers_are_done_and_nothing_is_cleaned(code):
    done = ended(f"return {code}", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (code, "")
    assert sorted(done.stdout.split()) == DONE


@pytest.mark.parametrize("code", [0, 75])
def test_handlers_registered_before_run_too(code):
    """Those of a profiler, or of sitecustomize."""
    own = "import atexit; atexit.register(print, 'earlier')\n"
    command = [sys.executable, "-c", own + PROGRAM.replace("{last}", f"return {code}")]
    done = subprocess.run(command, env=os.environ | USUAL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert sorted(done.stdout.split()) == sorted(["cleaned", "earlier", *DONE])


@pytest.mark.parametrize(
    ("last", "environment", "code"),
    [("1 / 0", {}, 1), ("sys.exit(2)", {}, 2), ("return 0", {"WORLD_SIZE": "2"}, 0)],
)
def test_errors_and_one_of_several_processes_take_the_usual_way(last, environment, code):
    done = ended(last, environment, stdout=subprocess.PIPE)
    assert done.returncode == code and ("ZeroDivisionError" in done.stderr) == (code == 1)
    assert sorted(done.stdout.split()) == ["cleaned", *DONE]


def test_output_that_cannot_be_written_is_reported():
    with Path("/dev/full").open("w") as full:
        done = ended("logging.getLogger().handlers.clear(); return 0", stdout=full)
    assert done.returncode == 120 and "No space left" in done.stderr
