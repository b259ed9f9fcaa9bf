"""Processes of --processes: how many, what they get, and how the launch ends when they do."""

import json
import os
import signal
import threading
import time

import pytest
import torch

from mae.base.errors import RunFailed, UserError
from mae.base.exit_status import STATUS_VARIABLE
from mae.base.local_launch import launch, launched, process_count, split_processes
from tests.waiting import wait_for

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])[int(os.environ["RANK"])]
own = folder / os.environ["RANK"]
seen = []
if not plan.get("deaf"):
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: seen.append(signal.Signals(number).name))
names = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
own.write_text(json.dumps({name: os.environ[name] for name in names}))
while plan.get("waits") and len(seen) < plan["waits"]:
    time.sleep(0.01)
time.sleep(plan.get("saving", 0))
(folder / f"seen-{own.name}").write_text(" ".join(seen))
if "status" in plan:
    word = json.dumps({"code": plan["status"], "step": 4, "reason": "a word"})
    Path(os.environ["MAE_EXIT_STATUS"]).write_text(word)
if "kill" in plan:
    os.kill(os.getpid(), plan["kill"])
sys.exit(plan.get("code", 0))
"""
"""stands in for `mae`, without torch; its second argument: the plan of each process"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(plan, …)` launches a process for each plan."""
    (tmp_path / "standin.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("mae.base.local_launch.RUNS", ("standin",))
    for name in (STATUS_VARIABLE, "OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def start(*plans, module="standin"):
        return launch(module, [str(tmp_path), json.dumps(plans)], len(plans))

    return start


def signal_when(ready, *numbers, pause=0.2):
    """Signal this process, which launches, once `ready()`."""

    def send():
        wait_for(ready)
        time.sleep(pause)  # the handlers of the last process
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(pause)

    threading.Thread(target=send).start()


@pytest.mark.parametrize(
    ("words", "rest", "asked"),
    [
        (["a.yaml", "b.c=1"], ["a.yaml", "b.c=1"], None),
        (["a.yaml", "--processes", "8", "--dry-run"], ["a.yaml", "--dry-run"], "8"),
        (["--processes=auto", "a.yaml"], ["a.yaml"], "auto"),
        (["a.yaml", "--processes"], ["a.yaml"], ""),
        (["a", "--", "--processes", "8"], ["a", "--", "--processes", "8"], None),
    ],
)
def test_the_option_is_taken_out_of_the_command_line(words, rest, asked):
    assert split_processes(words) == (rest, asked)


@pytest.mark.parametrize(
    ("asked", "gpus", "uses_gpus", "count"),
    [
        ("3", 0, True, 3),
        ("2", 2, True, 2),
        ("8", 2, False, 8),
        ("auto", 8, True, 8),
        ("auto", 0, True, 1),
        ("auto", 8, False, 1),
    ],
)
def test_auto_is_one_process_for_each_gpu(asked, gpus, uses_gpus, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert process_count(asked, uses_gpus) == count


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5"])
def test_other_numbers_are_refused(asked):
    with pytest.raises(UserError, match=r"^--processes: a number of 1 or more, or auto \(one for"):
        process_count(asked)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"^8 processes for 2 GPUs: start at most 2 "):
        process_count("8")


def test_launchers_are_not_nested(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"^--processes: a launcher has started 4 "):
        process_count("2")


def test_what_is_wrong_on_all_processes_is_said_before_any_is_started(tmp_path, capsys):
    def check():
        raise UserError("model.mask_raito: unknown key")

    assert launched("2", "no.such.module", [], check) == 2
    assert capsys.readouterr().err == "mae: model.mask_raito: unknown key\n"
    assert launched("1", "no.such.module", [], lambda: None) is None, "it is this process"
    assert launched(None, "no.such.module", [], check) is None


def test_processes_share_machine_and_cores(start, tmp_path, monkeypatch):
    monkeypatch.setattr("mae.base.local_launch.usable_cores", lambda: 7)
    before = os.environ.copy()
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert start({}, {}) == 0
    for rank in "01":
        assert json.loads((tmp_path / rank).read_text()) == {
            "WORLD_SIZE": "2",
            "LOCAL_RANK": rank,
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "3",
        }
    assert os.environ.copy() == before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers


@pytest.mark.parametrize("code", [2, 75])
def test_the_code_is_that_of_the_first_to_fail(start, capfd, code):
    assert start({"code": code}, {"deaf": True, "waits": 1}) == code
    assert capfd.readouterr() == ("", "")


def test_a_killed_process_is_named(start, capfd):
    """The others are stopped; that they end with an error, too, is not the cause."""
    with pytest.raises(RunFailed) as error:
        start({"waits": 1, "code": 1}, {"kill": signal.SIGKILL})
    assert str(error.value) == (
        "process 1 of 2 was killed by SIGKILL, perhaps out of memory; the same command continues"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_passed_on_once_and_the_run_says_how_it_ended(start, tmp_path, sent):
    """The first process is gone long before the other one has saved."""
    signal_when((tmp_path / "1").exists, signal.Signals[sent])
    plan = {"waits": 1, "code": 75}
    assert start(plan, {**plan, "saving": 1, "status": 75}) == 75
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in "01"] == [sent] * 2


def test_later_signals_are_passed_on_too(start, tmp_path):
    signal_when((tmp_path / "1").exists, signal.SIGUSR1, signal.SIGTERM)
    assert start({"waits": 2, "status": 75}, {"waits": 2}) == 75
    assert (tmp_path / "seen-0").read_text() == "SIGUSR1 SIGTERM"


def test_a_third_ctrl_c_kills(start, tmp_path):
    signal_when((tmp_path / "1").exists, *[signal.SIGINT] * 3)
    began = time.monotonic()
    assert start({"waits": 9}, {"waits": 9}) == 75
    assert time.monotonic() - began < 20


def test_what_dies_of_the_signal_has_not_begun(start, tmp_path, capfd):
    """A run can then be started again; other commands just stopped."""
    signal_when((tmp_path / "1").exists, signal.SIGTERM)
    assert start({"deaf": True, "waits": 1}, {"deaf": True, "waits": 1}) == 75
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mae: stopped by SIGTERM before the first step; the same command ")


def test_a_command_that_is_no_run_is_stopped_by_a_signal(start, tmp_path, monkeypatch):
    monkeypatch.setattr("mae.base.local_launch.RUNS", ())
    signal_when((tmp_path / "1").exists, signal.SIGINT)
    assert start({"waits": 1, "code": 1}, {"waits": 1, "code": 1}) == 1
    (tmp_path / "1").unlink()
    signal_when((tmp_path / "1").exists, signal.SIGTERM)
    with pytest.raises(RunFailed, match=r"^stopped by SIGTERM$"):
        start({"deaf": True, "waits": 1}, {"deaf": True, "waits": 1})
