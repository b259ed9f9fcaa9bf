"""Faults of a whole run: whatever happens, it ends soon, reports why, and resumes bit for bit."""

import json
import os
import pickle
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from mae.pretrain import main
from mae.training.checkpoint import saver
from mae.training.checkpoint.checkpoint_files import _stamp, read_state, with_checksum
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from mae.training.evaluator import Evaluator
from mae.training.safety import lifecycle
from mae.training.safety.guard import Quarantine
from mae.training.safety.step_flags import StepFlagReducer
from mae.training.tracking.tracker import Tracker
from tests.mounts import run_with_mounts
from tests.runs import command, environment, final_weights, launch, metrics_of, write_config
from tests.servers import body, stall, web_server
from tests.waiting import wait_for

STEPS = 26
SOON = 30
"""seconds in which everybody has to be gone"""


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread, as launched processes do: more of them change the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(reference_run):
    """Weights at the end of a run of one process that nothing disturbed."""
    return final_weights(reference_run.folder)


@pytest.fixture(scope="module")
def undisturbed_by_two(reference_run_by_two):
    """Weights at the end of a run of two processes that nothing disturbed."""
    return final_weights(reference_run_by_two.folder)


def assert_same(run, expected):
    """`run` came to its end, with the weights of the undisturbed one, and left no rubbish."""
    found = final_weights(run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [row["step"] for row in metrics_of(run)] == list(range(1, STEPS + 1))
    assert not list(run.rglob("*.tmp"))


def exit_status(run):
    return json.loads((run / "exit-status").read_text())


def saved(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def mae_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("mae: ")]


# One process: faults made in here.


def disturb(monkeypatch, owner, name, before=None, after=None, at=1):
    """Call `before()` or `after()` around the `at`-th call of `owner.name`."""
    whole, calls = getattr(owner, name), []

    def disturbed(*arguments, **named):
        calls.append(None)
        if before and len(calls) == at:
            before()
        result = whole(*arguments, **named)
        if after and len(calls) == at:
            after()
        return result

    monkeypatch.setattr(owner, name, disturbed)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


PLACES = [
    (Run, "check"),
    (Run, "open"),
    (torch.optim.Optimizer, "__init__"),
    (Quarantine, "__init__"),
    (Tracker, "__init__"),
    (Saver, "__init__"),
    (StepFlagReducer, "__init__"),
    (Evaluator, "__init__"),
    (Run, "write_start"),
]


def test_sigterm_anywhere_in_the_set_up_ends_it_at_once(shards, undisturbed, tmp_path, monkeypatch):
    """A new run and a resumed one are interrupted; neither loses anything."""
    config = write_config(tmp_path, shards)
    for attempt in ("new", "continued"):
        for owner, name in PLACES:
            with monkeypatch.context() as patch:
                disturb(patch, owner, name, before=terminate)
                assert main([str(config)]) == 75, (attempt, owner, name)
            if (tmp_path / "run" / "exit-status").exists():
                assert exit_status(tmp_path / "run")["code"] == 75
        if attempt == "new":
            with monkeypatch.context() as patch:
                disturb(patch, Tracker, "report", after=terminate, at=8)
                assert main([str(config)]) == 75
    with monkeypatch.context() as patch:
        disturb(patch, torch.nn.Module, "load_state_dict", before=terminate)
        assert main([str(config)]) == 75
    assert saved(tmp_path / "run")[-1] == 9
    assert main([str(config)]) == 0
    assert_same(tmp_path / "run", undisturbed)


def test_sigterm_while_the_set_up_downloads(make_shards, tmp_path, monkeypatch, capsys):
    """No server's fault, to be tried again."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make_shards(tmp_path / "shards", 8)
    whole = (tmp_path / "shards" / "shard-000000.tar").read_bytes()
    with web_server() as server:
        address = server.serve("/shard-000000.tar", stall(whole))
        config = write_config(tmp_path, address)
        threading.Timer(2, terminate).start()
        began = time.monotonic()
        assert main([str(config)]) == 75
    assert time.monotonic() - began < SOON and server.gets("/shard-000000.tar") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("mae: stopped by SIGTERM before the first step;")


def test_sigterm_while_a_checkpoint_is_written(shards, undisturbed, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, shards)
    write = saver.write_checkpoint

    def write_slowly(*arguments):
        terminate()
        time.sleep(0.5)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(saver, "write_checkpoint", write_slowly)
        assert main([str(config), "log.panel_every=1"]) == 75
    stopped = exit_status(tmp_path / "run")["step"]
    assert f"stopped by SIGTERM after step {stopped};" in capsys.readouterr().err
    assert saved(tmp_path / "run") == [4, stopped] and stopped > 4
    assert main([str(config)]) == 0
    assert_same(tmp_path / "run", undisturbed)


def test_sigterm_while_health_is_measured(shards, undisturbed, tmp_path, monkeypatch):
    """The measurement is finished, and so is the step after it."""
    config = write_config(tmp_path, shards)
    health = (f"data.val={shards}", "log.health_every=1", "train.checkpoint_every=100")
    with monkeypatch.context() as patch:
        disturb(
            patch, sys.modules["mae.evaluation.health"], "measure_health", before=terminate, at=2
        )
        assert main([str(config), *health]) == 75
    measured = (tmp_path / "run" / "health.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in measured] == [7, 13]
    assert exit_status(tmp_path / "run")["step"] == 14 and saved(tmp_path / "run") == [14]
    assert main([str(config), *health]) == 0
    measured = (tmp_path / "run" / "health.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in measured] == [7, 13, 20, 26]
    assert_same(tmp_path / "run", undisturbed)


def test_sigterm_while_a_download_hangs(make_shards, tmp_path, monkeypatch, capsys):
    """Whoever waits for data saves alone: a server may take minutes, a scheduler does not."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(lifecycle, "DATA_WAIT_SECONDS", 1)
    make_shards(tmp_path / "shards", 52, shard_size=7, size=(20, 24))
    paths = sorted((tmp_path / "shards").glob("*.tar"))
    window = ("data.order=window", "data.window=1", "train.checkpoint_every=100")
    with web_server() as server:

        def every_shard(answer):
            for path in paths:
                server.serve(f"/{path.name}", answer(path.read_bytes()))

        def hang():
            every_shard(stall)
            threading.Timer(2, terminate).start()

        every_shard(body)
        config = write_config(tmp_path, f"{server.url}/shard-{{000000..000007}}.tar")
        small = f"data.cache_gb={2.5 * max(path.stat().st_size for path in paths) / 1e9}"
        with monkeypatch.context() as patch:
            disturb(patch, Tracker, "report", after=hang, at=8)
            began = time.monotonic()
            assert main([str(config), *window, small]) == 75
        assert time.monotonic() - began < SOON
        (saved_at,) = saved(tmp_path / "run")
        (message,) = capsys.readouterr().err.splitlines()
        assert message.startswith(
            "mae: stopped by SIGTERM while waiting for data; the last checkpoint is of step "
        )
        assert exit_status(tmp_path / "run")["step"] == saved_at >= 8
        every_shard(body)
        assert main([str(config), *window, small]) == 0
    (tmp_path / "whole").mkdir()
    whole = write_config(tmp_path / "whole", f"{tmp_path}/shards/*.tar")
    assert main([str(whole), *window]) == 0
    assert_same(tmp_path / "run", final_weights(tmp_path / "whole" / "run"))


@pytest.mark.parametrize("code", [0, 1])
def test_a_signal_after_the_last_step_changes_nothing(code, shards, tmp_path, monkeypatch):
    """A launcher sends one to the others when the first has ended."""
    config = write_config(tmp_path, shards)
    disturb(monkeypatch, Tracker, "close", before=terminate)
    if code:
        monkeypatch.setattr(saver, "write_checkpoint", lambda *_: [].pop())
    assert main([str(config)]) == code
    assert exit_status(tmp_path / "run")["code"] == code


def test_the_clock_of_the_wall_is_not_asked(shards, undisturbed, tmp_path, monkeypatch):
    """It jumps back an hour at each reading, and all checkpoints are equally old, or older."""
    config = write_config(tmp_path, shards)
    now, often = time.time(), ("train.checkpoint_every=1000", "train.checkpoint_minutes=0.00001")
    with monkeypatch.context() as patch:
        readings = iter(range(10**9))
        patch.setattr(time, "time", lambda: now - 3600 * next(readings))
        disturb(patch, Tracker, "report", after=terminate, at=8)
        assert main([str(config), *often]) == 75
        assert saved(tmp_path / "run") == [8, 9]
        for path, age in (("step-000000008", 0), ("step-000000009", 10**6)):
            os.utime(tmp_path / "run" / "checkpoints" / path, (now - age, now - age))
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000000008")
        shutil.copytree(*(tmp_path / "run" / "checkpoints" / f"step-{n:09d}" for n in (9, 8)))
        assert main([str(config), *often]) == 0
    assert saved(tmp_path / "run") == [25, 26]
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("lost", "line"),
    [
        ("run", "mae: output: {run} is no longer the folder of this run: "),
        ("run/metrics.jsonl", "mae: {run} cannot be written: [Errno 21] Is a directory: "),
        ("run/checkpoints", "mae: step 12: {run}/checkpoints takes no checkpoint: "),
    ],
)
def test_a_place_that_takes_no_more_fails_in_one_line(
    lost, line, shards, undisturbed, tmp_path, monkeypatch, capsys
):
    """Something else in its place, which stops root, too."""
    config = write_config(tmp_path, shards)
    place, aside = tmp_path / lost, tmp_path / "aside"

    def lose():
        wait_for((tmp_path / "run" / "checkpoints" / "step-000000008").is_dir)  # in the background
        place.rename(aside)
        if aside.is_dir():
            place.touch()
        else:
            place.mkdir()

    with monkeypatch.context() as patch:
        disturb(patch, Evaluator, "evaluate", after=lose, at=9)
        assert main([str(config)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(line.format(run=tmp_path / "run"))
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink()
    aside.rename(place)
    assert saved(tmp_path / "run") == [4, 8]
    assert main([str(config)]) == 0
    assert_same(tmp_path / "run", undisturbed)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def hostile(shards, tmp_path, monkeypatch):
    """A run stopped at step 9, with a checkpoint of step 10 to be made hostile; its config."""
    config = write_config(tmp_path, shards)
    with monkeypatch.context() as patch:
        disturb(patch, Tracker, "report", after=terminate, at=8)
        assert main([str(config)]) == 75
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step-000000009", folder / "step-000000010")
    return config, folder / "step-000000010"


def test_a_run_whose_newest_checkpoint_is_a_trap_is_refused(hostile, undisturbed, capsys):
    """Pickles under the names of tensors, vouched for by a manifest."""
    config, newest = hostile
    sprung = newest / "sprung"
    state = json.loads((newest / "state.json").read_text()) | {"step": 10, "samples": 80}
    for name in state["files"]:
        with (newest / name).open("wb") as file:
            pickle.dump(Trap(sprung), file)
        state["files"][name] = _stamp(newest / name)
    (newest / "state.json").write_text(json.dumps(with_checksum(state)))
    assert read_state(newest).step == 10
    assert main([str(config)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"mae: {newest}: the weights do not fit this model: ")
    assert not sprung.exists()
    shutil.rmtree(newest)
    assert main([str(config)]) == 0
    assert_same(config.parent / "run", undisturbed)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../config.yaml": {"bytes": 0}, "/etc/passwd": {"bytes": 0}}},
        {"step": -1},
        {"step": 0},
        {"step": float("inf")},
        {"samples": "../.."},
        {"skipped": [float("nan")]},
        {"step": 10, "deep": "[" * 100_000},
    ],
    ids=["names", "negative", "other step", "infinite", "samples", "nan", "deep"],
)
def test_a_hostile_manifest_is_passed_over_and_costs_nothing(change, hostile, undisturbed, capsys):
    config, newest = hostile
    run = config.parent / "run"
    before = (run / "config.yaml").read_bytes()
    state = {**json.loads((newest / "state.json").read_text()), "step": 10, **change}
    text = json.dumps(with_checksum(state))
    if deep := change.get("deep"):
        text = text.replace(json.dumps(deep), f"{deep}{']' * len(deep)}")
    (newest / "state.json").write_text(text)
    capsys.readouterr()
    assert main([str(config)]) == 0
    (message,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("damaged ")]
    assert message.startswith(f"damaged {newest}: ")
    assert message.endswith("; resuming from step-000000009")
    assert (run / "config.yaml").read_bytes() == before
    assert_same(run, undisturbed)


# Two processes: real launchers.

SCRIPT = """\
import os, signal, sys, time
import mae.evaluation.health
from mae.pretrain import main
from mae.training.safety.step_flags import StepFlagReducer

def at_step(number, rank, act):
    reduce, steps = StepFlagReducer.reduce, []
    def disturbed(self, own):
        steps.append(None)
        if len(steps) == number and os.environ["RANK"] == str(rank):
            act()
        return reduce(self, own)
    StepFlagReducer.reduce = disturbed

def signal_myself(number):
    os.kill(os.getpid(), number)

def fail(error):
    raise error

{fault}
sys.exit(main(sys.argv[1:]))
"""


class Launched:
    """Run under its launcher, its stderr, and all processes it ever had."""

    def __init__(self, line: list[str], folder: Path, patience: float = 2) -> None:
        self.log = folder / "stderr"
        self.metrics = folder / "run" / "metrics.jsonl"
        patient = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(patience)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, stdout=subprocess.DEVNULL, stderr=log, env=environment() | patient
            )
        self.members: dict[int, psutil.Process] = {}

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, in order; none yet while they are being started."""
        found = {}
        for one in self.living():
            with suppress(psutil.Error):
                parent = self.members.get(one.ppid())
                rank = one.environ().get("RANK")
                if rank and parent and "RANK" not in parent.environ():
                    found[int(rank)] = one
        return [found[rank] for rank in sorted(found)]

    def living(self) -> list[psutil.Process]:
        """Living processes of the run, added to `members`."""
        with suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            living = [launcher, *launcher.children(recursive=True)]
            self.members |= {one.pid: one for one in living}
            return living
        return []

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while not (self.metrics.exists() and f'"step": {step},' in self.metrics.read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.stderr()
            self.living()
            time.sleep(0.02)

    def stderr(self) -> str:
        return self.log.read_text()

    def end(self, within: float) -> int:
        """Wait for the end and return the exit code; fail where a process is left."""
        deadline = time.monotonic() + within
        try:
            while self.process.poll() is None and time.monotonic() < deadline:
                self.living()
                time.sleep(0.05)
            code = self.process.poll()  # before psutil takes note of it
            _, alive = psutil.wait_procs(self.members.values(), timeout=15)
            assert code is not None and not alive, (alive, self.stderr())
            return code
        finally:
            for one in self.members.values():
                with suppress(psutil.Error):
                    one.kill()
            self.process.wait()


def faulty(config: Path, fault: str, *settings: str) -> list[str]:
    """The command line of two processes, one of which has `fault`."""
    script = config.parent / "faulty.py"
    script.write_text(SCRIPT.format(fault=fault))
    line = command(config, *settings, processes=2)
    at = line.index("mae.pretrain")
    return [*line[: at - 1], str(script), *line[at + 1 :]]


@pytest.mark.fault
@pytest.mark.parametrize("rank", [1, 0])
def test_a_stalled_process_ends_the_run(rank, shards, undisturbed_by_two, tmp_path):
    config = write_config(tmp_path, shards)
    fault = f"at_step(7, {rank}, lambda: signal_myself(signal.SIGSTOP))"
    settings = ("train.timeout_minutes=.1", "data.workers=1")
    run = Launched(faulty(config, fault, *settings), tmp_path)
    run.wait_for_step(6)
    # The launcher gives the one that cannot hear its signal half a minute.
    assert run.end(within=6 + 30 + SOON) == 1
    (line,) = mae_lines(run.stderr())
    assert line.startswith("mae: another process has not answered for 6 s (train.timeout_minutes)")
    assert exit_status(tmp_path / "run")["code"] == 1
    assert launch(config, processes=2).returncode == 0
    assert_same(tmp_path / "run", undisturbed_by_two)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.fault)])
def test_an_exception_in_one_process_ends_all(rank, shards, undisturbed_by_two, tmp_path):
    config = write_config(tmp_path, shards)
    # Not of writing the run's folder, which has a line of its own.
    fault = f"at_step(7, {rank}, lambda: fail(OSError(24, 'Too many open files')))"
    run = Launched(faulty(config, fault, "data.workers=1"), tmp_path, patience=30)
    run.wait_for_step(6)
    assert run.end(within=SOON) != 0
    assert "OSError: [Errno 24] Too many open files" in run.stderr()
    assert launch(config, processes=2).returncode == 0
    assert_same(tmp_path / "run", undisturbed_by_two)


@pytest.mark.fault
def test_one_process_of_two_killed_under_the_supervisor(shards, undisturbed_by_two, tmp_path):
    config, chance, kills = write_config(tmp_path, shards), random.Random(5), 5
    supervise = [sys.executable, "-m", "mae", "supervise", "--delay", "0", "--relaunches", "9"]
    slow = ("log.panel_every=1", "data.workers=1")  # panels take the time in which to kill
    run = Launched([*supervise, *command(config, *slow, processes=2)], tmp_path)
    killed: set[int] = set()
    for step in sorted(chance.sample(range(2, 20), kills)):
        run.wait_for_step(step)
        while len(fresh := [one for one in run.ranks() if one.pid not in killed]) < 2:
            assert run.process.poll() is None, run.stderr()
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        chance.choice(fresh).kill()
        killed |= {one.pid for one in fresh}
    assert run.end(within=300) == 0, run.stderr()
    assert run.stderr().count("relaunch in 0 s") == kills
    assert_same(tmp_path / "run", undisturbed_by_two)


@pytest.mark.fault
def test_sigterm_to_all_processes_at_any_moment_of_the_start(shards, undisturbed_by_two, tmp_path):
    """Imports, rendezvous, index, model: killed by it or stopped in order, never left behind."""
    config, chance = write_config(tmp_path, shards), random.Random(0)
    for _ in range(8):
        run = Launched(command(config, "data.workers=1", processes=2), tmp_path, patience=10)
        time.sleep(chance.uniform(0, 9))
        for one in reversed(run.living()):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGTERM)
        run.end(within=SOON)
    assert launch(config, processes=2).returncode == 0
    assert_same(tmp_path / "run", undisturbed_by_two)


@pytest.mark.fault
def test_sigterm_to_one_of_two_while_health_is_measured(shards, undisturbed_by_two, tmp_path):
    config = write_config(tmp_path, shards)
    fault = """
measure = mae.evaluation.health.measure_health
def disturbed(*arguments, **named):
    if os.environ["RANK"] == "1":
        signal_myself(signal.SIGTERM)
    return measure(*arguments, **named)
mae.evaluation.health.measure_health = disturbed
"""
    health = (f"data.val={shards}", "log.health_every=1")
    run = Launched(faulty(config, fault, *health), tmp_path, patience=30)
    assert run.end(within=120) != 0  # the launcher's own
    assert exit_status(tmp_path / "run")["code"] == 75
    assert len(mae_lines(run.stderr())) == 1
    assert exit_status(tmp_path / "run")["step"] == saved(tmp_path / "run")[-1] == 8
    assert launch(config, *health, processes=2).returncode == 0
    assert_same(tmp_path / "run", undisturbed_by_two)


@pytest.mark.fault
def test_two_thousand_steps_take_no_more_memory(shards, tmp_path):
    """Checkpoints, panels and measurements included, once each has been made a few times."""
    config = write_config(tmp_path, shards)
    settings = ["train.epochs=310", "train.checkpoint_every=20", "log.panel_every=50"]
    settings += [f"data.val={shards}", "log.health_every=8", "data.workers=1"]
    run = Launched(command(config, *settings), tmp_path)
    levels = {}
    for step in range(500, 2001, 50):
        run.wait_for_step(step)
        levels[step] = psutil.Process(run.process.pid).memory_info().rss / 1e6
    assert run.end(within=60) == 0, run.stderr()
    print({step: round(level, 1) for step, level in levels.items()})
    early = statistics.median(level for step, level in levels.items() if step <= 800)
    late = statistics.median(level for step, level in levels.items() if step >= 1700)
    assert late - early < 8, levels


STUCK = """
import os, sys
from mae.data.shard_reader import ShardReader
from mae.pretrain import main

whole, reads = ShardReader.read, []

def read(self, sample):
    reads.append(sample)
    if len(reads) > 60:  # the images of the panels and of 6 steps, and some of the seventh
        os.open(sys.argv[1], os.O_RDONLY)  # a pipe that nobody writes to
    return whole(self, sample)

ShardReader.read = read
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.fault), 1])
def test_a_read_that_never_returns_ends_the_run_by_name(shards, undisturbed, tmp_path, workers):
    config, run = write_config(tmp_path, shards), tmp_path / "run"
    os.mkfifo(tmp_path / "pipe")
    settings = ["train.timeout_minutes=0.1", f"data.workers={workers}"]
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(tmp_path / "pipe"), str(config), *settings],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=100,
    )
    assert done.returncode == 1
    (line,) = mae_lines(done.stderr)
    assert line.startswith("mae: step 7: no data for 0.1 minutes: waited for ")
    assert ("data worker" if workers else f"{Path(shards).parent}/shard-") in line
    assert line.endswith("the last checkpoint is of step 6")
    assert exit_status(run)["code"] == 1 and exit_status(run)["step"] == 6
    assert main([str(config)]) == 0
    assert_same(run, undisturbed)


def test_a_container_with_little_shared_memory_trains_the_same(shards, undisturbed, tmp_path):
    config, root = write_config(tmp_path, shards), Path(__file__).parents[1]
    mounts = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    done = run_with_mounts(mounts, command(config, "data.workers=1"), root, environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("mae: /dev/shm (1 MB) has no room") == 1
    assert_same(tmp_path / "run", undisturbed)
