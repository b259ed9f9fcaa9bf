"""Batches made ahead of need, by worker processes that live and die with the run."""

import atexit
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader, Dataset

from mae.base.errors import UserError, WorkerDied


def batches(dataset: Dataset, slices: Iterable[range], workers: int) -> Generator:
    """`dataset[s]` for each slice, in order, made ahead by `workers` processes.

    Never to be passed through `accelerator.prepare`: the slices are this process's own already.
    Raises UserError as the dataset met it, WorkerDied where a worker was killed.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=slices,  # pyrefly: ignore  # any iterable is a sampler
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_parent,
        prefetch_factor=2 if workers else None,
    )
    # Torch turns the signal of a worker's death into an exception, in the middle of a step, too.
    before = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    end = partial(_kill, getattr(items, "_workers", ()))
    # An error that nobody catches keeps this generator to the very end, where Python waits for
    # workers that it has sent a SIGTERM, which ours ignore.
    atexit.register(end)
    try:
        yield from _undisturbed(items)
    finally:
        del items  # they come to their end, but for those that are stuck
        end()
        atexit.unregister(end)


def _kill(team: Iterable[BaseProcess]) -> None:
    for worker in team:
        worker.kill()
        worker.join()


def _undisturbed(items: Iterator) -> Iterator:
    """`items`, with errors that came as values raised, and dead workers named."""
    while True:
        item, died = None, ""
        try:
            item = next(items)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError):
            # What a worker's death looks like depends on what it was doing.
            died = _dead_workers(items)
            if not died:
                raise
        if died:
            item = WorkerDied(f"{died} died; for lack of memory, perhaps")
        if isinstance(item, UserError | WorkerDied):
            del items  # ends the other workers now: the error's traceback would keep them
            raise item
        yield item


def _dead_workers(items: Iterator) -> str:
    """Names of the workers that are no more; "" while all of them live."""
    dead = []
    workers = getattr(items, "_workers", ())
    ended = wait([worker.sentinel for worker in workers], timeout=1)  # known a moment later
    for worker in workers:
        if worker.sentinel in ended:
            # Its files are closed before it can be waited for: till then it would count as alive.
            worker.join()
        if not worker.is_alive():
            code = worker.exitcode
            how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            dead.append(f"data worker {worker.pid} ({how})")
    return ", ".join(dead)


def _leave_signals_to_the_parent(worker: int) -> None:
    # Sent to every process of a job: a worker that obeyed would cost the last checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
