"""Batches loaded ahead of need by worker processes that end with the run."""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sized
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from mae.base.errors import DataTimeout, UserError, WorkerDied
from mae.data.sent_items import SentItems, received

Index = TypeVar("Index")
Item = TypeVar("Item")

WAIT_MINUTES = 30.0
"""maximum number of minutes to wait for an item from a worker, unless a run sets its own"""
POLL_SECONDS = 5.0
"""seconds between checks that the workers are alive"""
LOCKS = 5
"""upper bound of the locks in a queue or event of multiprocessing"""
KILL_SECONDS = 10
"""seconds for a killed worker to end: one that waits for a stuck disk does not"""


def load_in_workers(
    dataset: Dataset[Item | UserError],
    indices: Iterable[object],
    workers: int,
    timeout_minutes: float = WAIT_MINUTES,
) -> Generator[Item]:
    """`dataset[index]` for each index, in order, loaded ahead by `workers` processes.

    No more workers are started than `indices` has items, where it has a length, and none for one.
    Do not pass it through `accelerator.prepare`: the indices are already those of this process.
    Raises the UserError that the dataset returned, WorkerDied where a worker was killed, and
    DataTimeout where no item comes for `timeout_minutes`, because a worker or its disk is stuck.
    """
    if isinstance(indices, Sized):
        workers = min(workers, len(indices)) if len(indices) > 1 else 0
    if workers:
        _check_semaphores(workers)
    loader = DataLoader(
        SentItems(dataset) if workers else dataset,
        batch_size=None,
        sampler=indices,  # pyrefly: ignore  # any iterable is a sampler
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator(),  # else it draws from the global one of the loop's dropout
        timeout=min(POLL_SECONDS, 60 * timeout_minutes) if workers else 0,
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
        yield from _unwrap(items, timeout_minutes)
    finally:
        del items  # ends the workers that are not stuck
        kill()
        atexit.unregister(kill)


def _check_semaphores(workers: int) -> None:
    """Raise UserError where shared memory has no room for the locks of the workers' queues."""
    try:
        [multiprocessing.Lock() for _ in range(LOCKS * (workers + 2))]  # freed at once
    except OSError as error:
        raise UserError(
            f"data.workers: {workers} cannot be started: {error.strerror}: is /dev/shm full? start "
            "the container with a larger --shm-size, or use data.workers=0 (--workers 0)"
        ) from None


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(KILL_SECONDS)


def _unwrap(items: Iterator, timeout_minutes: float) -> Iterator:
    """`items`; raises returned errors, and WorkerDied or DataTimeout with the names of workers."""
    polls = 0
    while True:
        item = None
        try:
            item, polls = received(next(items)), 0
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            # The error of a worker's death depends on what the worker was doing.
            is_poll = "timed out" in str(error)
            if dead := _dead_workers(items, patience=0 if is_poll else 1):
                item = WorkerDied(f"{dead} died, perhaps out of memory: reduce data.workers")
            elif not is_poll:
                raise
            elif (polls := polls + 1) * POLL_SECONDS < 60 * timeout_minutes:
                continue  # counted, not measured: a process that is suspended does not wait
            else:
                item = DataTimeout(
                    f"no data for {timeout_minutes:g} minutes: waited for {_states(items)}; is "
                    "the storage of the shards stuck?"
                )
                _kill(getattr(items, "_workers", ()))  # ending them in peace would take long
        if isinstance(item, UserError | WorkerDied | DataTimeout):
            del items  # ends the other workers now: the error's traceback would keep them
            raise item
        yield item


def _dead_workers(items: Iterator, patience: float) -> str:
    """Names and exit codes of the dead workers; "" while all are alive."""
    dead = []
    workers = getattr(items, "_workers", ())
    ended = wait([worker.sentinel for worker in workers], timeout=patience)  # known a moment later
    for worker in workers:
        if worker.sentinel in ended:
            # Its sentinel closes before the process has ended: is_alive() is still true then.
            worker.join()
        if not worker.is_alive():
            code = worker.exitcode
            cause = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            dead.append(f"data worker {worker.pid} ({cause})")
    return ", ".join(dead)


def _states(items: Iterator) -> str:
    """Names of all workers with the system's word for each, such as stopped or disk-sleep."""
    states = []
    for worker in getattr(items, "_workers", ()):
        try:
            states.append(f"data worker {worker.pid} ({psutil.Process(worker.pid).status()})")
        except psutil.Error:
            states.append(f"data worker {worker.pid}")
    return ", ".join(states)


def _ignore_signals(worker: int) -> None:
    # Schedulers send these to every process of a job; a worker that ended would cost the last
    # checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
