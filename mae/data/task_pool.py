"""Task pool over worker processes; a worker that dies raises an error instead of a hang."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TypeVar

from mae.base.errors import WorkerDied

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Worker(NamedTuple):
    process: BaseProcess
    task: int


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    name: Callable[[Task], str] = str,
) -> Generator[tuple[int, Result]]:
    """(task number, result) in order of completion; with 0 workers in order, in this process.

    `function` is sent to each process once, the tasks one by one.  Raises what `function` raises,
    and WorkerDied where a process dies, naming its task by `name`.
    """
    if workers == 0:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    import torch  # noqa: F401 - before the fork, so that workers do not import it again

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    running: dict[Connection, _Worker] = {}
    todo = iter(range(len(tasks)))
    try:
        for number in islice(todo, workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, function), daemon=True)
            process.start()
            there.close()  # so that a dead worker closes the pipe
            running[here] = _Worker(process, number)
            with suppress(ConnectionError):  # dead already: seen when its answer is received
                here.send(tasks[number])
        while running:
            for here in wait(list(running)):
                assert isinstance(here, Connection)
                process, number = running[here]
                try:
                    result, error = here.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    raise WorkerDied(_death_message(process, name(tasks[number]))) from None
                if error is not None:
                    raise error
                following = next(todo, None)
                if following is None:
                    del running[here]
                    with suppress(ConnectionError):
                        # Workers forked later hold this end too: closing it signals nothing.
                        here.send(None)
                    here.close()
                    process.join()
                else:
                    running[here] = _Worker(process, following)
                    with suppress(ConnectionError):
                        here.send(tasks[following])
                yield number, result
    finally:
        for here, worker in running.items():
            here.close()
            worker.process.terminate()
        for worker in running.values():
            worker.process.join(5)
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, function: Callable[[Task], Result]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # the parent's threads do not survive a fork
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionError):
            return
        if task is None:
            return
        try:
            answer = (function(task), None)
        except Exception as error:  # the parent raises it
            answer = (None, error)
        pipe.send(answer)


def _exit_with_parent() -> None:
    """Exit once the parent is gone: so that no orphan keeps writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _death_message(process: BaseProcess, task: str) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"{task}: its worker process {process.pid} ended with exit code {code}"
    reason = f"was killed by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        reason += " (out of memory? use fewer workers)"
    return f"{task}: its worker process {process.pid} {reason}"
