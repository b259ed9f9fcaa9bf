import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from mae.base.errors import DataTimeout, WorkerDied
from mae.data.worker_loader import load_in_workers
from tests.mounts import run_with_mounts


class Handlers(Dataset):
    """True for each index where the reading process ignores SIGINT."""

    def __getitem__(self, index):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_ignore_interrupts():
    assert list(load_in_workers(Handlers(), [range(1)] * 2, workers=2)) == [True, True]


class Processes(Dataset):
    """The id of the reading process."""

    def __getitem__(self, index):
        return os.getpid()


def test_no_more_workers_are_started_than_there_are_batches(monkeypatch):
    started = []
    start = multiprocessing.Process.start
    monkeypatch.setattr(
        multiprocessing.Process, "start", lambda self: (started.append(self), start(self))
    )
    for batches, asked, workers in ((1, 8, 0), (2, 8, 2), (5, 1, 1)):
        found = load_in_workers(Processes(), [range(1)] * batches, workers=asked)
        assert len({*found} - {os.getpid()}) == len(started) == workers
        started.clear()
    list(load_in_workers(Processes(), iter([range(1)]), workers=1))
    assert len(started) == 1, "a stream has no length"


class Pids(Dataset):
    """The id of the reading process; slow, so that some work is always pending."""

    def __getitem__(self, index):
        time.sleep(0.05)
        return torch.tensor(os.getpid())


def test_a_killed_worker_ends_the_stream_soon_and_is_named(workers_left):
    items = load_in_workers(Pids(), [range(1)] * 10_000, workers=2)
    victim = int(next(items))
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDied) as error:
        for _ in items:
            pass
    assert time.monotonic() - start < 10
    assert f"data worker {victim} (signal 9) died" in str(error.value)
    assert "\n" not in str(error.value)
    assert not workers_left()


class Reset:
    """An item whose unpickling fails, as when its worker dies while sending it."""

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise ConnectionResetError("by a worker that dies")


class DyingSlowly(Dataset):
    """A data set whose worker closes its files half a second before it dies."""

    def __getitem__(self, index):
        threading.Thread(target=self.die).start()
        return Reset()

    def die(self):
        time.sleep(0.1)
        os.closerange(3, 1024)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_still_dying_is_named():
    with pytest.raises(WorkerDied, match=r"data worker \d+ \(signal 9\) died"):
        list(load_in_workers(DyingSlowly(), iter([range(1)]), workers=1))


def test_a_closed_stream_leaves_no_workers(workers_left):
    items = load_in_workers(Pids(), [range(4)] * 50, workers=2)
    next(items)
    assert len(workers_left()) == 2
    items.close()
    assert not workers_left()


def test_a_stopped_worker_ends_the_wait_and_is_named(workers_left):
    items = load_in_workers(Pids(), [range(1)] * 10_000, workers=1, timeout_minutes=0.02)
    victim = int(next(items))
    os.kill(victim, signal.SIGSTOP)
    expected = rf"no data for 0.02 minutes: waited for data worker {victim} \(stopped\)"
    with pytest.raises(DataTimeout, match=expected):
        for _ in items:
            pass
    assert not workers_left()


BIG_ITEMS = """
import torch
from torch.utils.data import Dataset
from mae.data.worker_loader import load_in_workers

class Big(Dataset):
    def __getitem__(self, index):
        (number,) = index
        whole = torch.full((40 * 2**20,), number, dtype=torch.uint8)
        return whole, {"bits": torch.full((3,), number, dtype=torch.uint16)}, [torch.zeros(0), "x"]

numbers = [range(n, n + 1) for n in range(6)]
for number, (whole, bits, rest) in enumerate(load_in_workers(Big(), numbers, workers=2)):
    assert whole.numel() == 40 * 2**20 and (whole == number).all()
    assert bits["bits"].tolist() == [number] * 3 and bits["bits"].dtype == torch.uint16
    assert rest[0].shape == (0,) and rest[1] == "x"
print(number)
"""


def run_with_shared_memory(size, script):
    """Run a script of Python in a container's /dev/shm of this size."""
    root = Path(__file__).parents[2]
    mounts = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    env = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    return run_with_mounts(mounts, [sys.executable, "-c", script], cwd=root, env=env)


def test_batches_beyond_the_shared_memory_of_a_container_all_arrive():
    done = run_with_shared_memory("64m", BIG_ITEMS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("mae: /dev/shm (67 MB) has no room") and "--shm-size" in line


def test_shared_memory_without_room_for_a_queue_is_refused_in_one_line():
    script = BIG_ITEMS.replace("\nnumbers", "\nimport mae.base.exit_status as e\nnumbers")
    script = f"{script.partition('for number')[0]}\n"
    script += "raise SystemExit(e.exit_code(lambda: next(load_in_workers(Big(), numbers, 2))))"
    done = run_with_shared_memory("4k", script)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mae: data.workers: 2 cannot be started: No space left on device")
