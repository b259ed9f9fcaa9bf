import os
import signal
import threading
import time

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from mae.base.errors import WorkerDied
from mae.data.worker_loader import load_in_workers


@pytest.fixture
def workers_left():
    """`workers_left()`: child processes of this test, running or zombies.

    Without the resource tracker of multiprocessing, which stays for other tests.
    """
    before = set(psutil.Process().children(recursive=True))

    def left():
        new = set(psutil.Process().children(recursive=True)) - before
        return [child for child in new if "resource_tracker" not in " ".join(child.cmdline())]

    return left


class Handlers(Dataset):
    """True for each index where the reading process ignores SIGINT."""

    def __getitem__(self, index):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_ignore_interrupts():
    assert list(load_in_workers(Handlers(), [range(1)] * 2, workers=2)) == [True, True]


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
        list(load_in_workers(DyingSlowly(), [range(1)], workers=1))


def test_a_closed_stream_leaves_no_workers(workers_left):
    items = load_in_workers(Pids(), [range(4)] * 50, workers=2)
    next(items)
    assert len(workers_left()) == 2
    items.close()
    assert not workers_left()
