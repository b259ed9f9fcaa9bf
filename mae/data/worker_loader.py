"""Batches loaded ahead of need by worker processes that end with the run."""

import atexit
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mae.base.errors import UserError, WorkerDied

Index = TypeVar("Index")
Item = TypeVar("Item")


def load_in_workers(
    dataset: Dataset[Item | UserError], indices: Iterable[object], workers: int
) -> Generator[Item]:
    """`dataset[index]` for each index, in order, loaded ahead by `workers` processes.

    Do not pass it through `accelerator.prepare`: the indices are already those of this process.
    Raises the UserError that the dataset returned, and WorkerDied where a worker was killed.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,  # pyrefly: ignore  # any iterable is a sampler
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        prefetch_factor=2 if workers else None,
    )
    # Torch's SIGCHLD handler raises for a dead worker at any point, even in the middle of a step.
    handler = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    kill = partial(_kill, getattr(items, "_workers", ()))
    # An uncaught error keeps this generator alive until Python exits, and exiting waits for
    # workers after a SIGTERM, which ours ignore.
    atexit.register(kill)
    try:
        yield from _unwrap(items)
    finally:
        del items  # ends the workers that are not stuck
        kill()
        atexit.unregister(kill)


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()


def _unwrap(items: Iterator) -> Iterator:
    """`items`; raises returned errors, and WorkerDied with the names of dead workers."""
    while True:
        item, dead = None, ""
        try:
            item = next(items)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError):
            # The error of a worker's death depends on what the worker was doing.
            dead = _dead_workers(items)
            if not dead:
                raise
        if dead:
            item = WorkerDied(f"{dead} died, perhaps out of memory: reduce data.workers")
        if isinstance(item, UserError | WorkerDied):
            del items  # ends the other workers now: the error's traceback would keep them
            raise item
        yield item


def _dead_workers(items: Iterator) -> str:
    """Names and exit codes of the dead workers; "" while all are alive."""
    dead = []
    workers = getattr(items, "_workers", ())
    ended = wait([worker.sentinel for worker in workers], timeout=1)  # known a moment later
    for worker in workers:
        if worker.sentinel in ended:
            # Its sentinel closes before the process has ended: is_alive() is still true then.
            worker.join()
        if not worker.is_alive():
            code = worker.exitcode
            cause = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            dead.append(f"data worker {worker.pid} ({cause})")
    return ", ".join(dead)


def _ignore_signals(worker: int) -> None:
    # Schedulers send these to every process of a job; a worker that ended would cost the last
    # checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
