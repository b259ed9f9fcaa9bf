"""Tasks done by several processes, where a process that dies is an error and not a hang."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TypeVar

from mae.base.errors import WorkerDied

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Worker(NamedTuple):
    process: BaseProcess
    task: int


def in_workers(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    name: Callable[[Task], str] = str,
) -> Generator[tuple[int, Result]]:
    """(number of the task, its result) as they are done; in order and right here for 0 workers.

    `function` goes to each process once, the tasks one by one.  Raises what `function` raises,
    and WorkerDied where a process dies, naming its task by `name`.
    """
    if workers == 0:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    import torch  # noqa: F401 - before the fork: all decode, and import it no second time

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    team: dict[Connection, _Worker] = {}
    todo = iter(range(len(tasks)))
    try:
        for number in _first(todo, min(workers, len(tasks))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, function), daemon=True)
            process.start()
            there.close()  # so that the worker's death is the end of the pipe
            team[here] = _Worker(process, number)
            with suppress(ConnectionError):  # dead already: the answer that fails to come tells
                here.send(tasks[number])
        while team:
            for here in wait(list(team)):
                assert isinstance(here, Connection)
                process, number = team[here]
                try:
                    result, error = here.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    raise WorkerDied(_obituary(process, name(tasks[number]))) from None
                if error is not None:
                    raise error
                following = next(todo, None)
                if following is None:
                    del team[here]
                    with suppress(ConnectionError):
                        # Workers forked later hold this end too: closing tells nothing.
                        here.send(None)
                    here.close()
                    process.join()
                else:
                    team[here] = _Worker(process, following)
                    with suppress(ConnectionError):
                        here.send(tasks[following])
                yield number, result
    finally:
        for here, worker in team.items():
            here.close()
            worker.process.terminate()
        for worker in team.values():
            worker.process.join(5)
            worker.process.kill()
            worker.process.join()


def _first(numbers: Iterator[int], count: int) -> list[int]:
    return [next(numbers) for _ in range(count)]


def _work(pipe: Connection, function: Callable[[Task], Result]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)  # those of the parent are not there after a fork
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


def _die_with_the_parent() -> None:
    """A parent killed outright cannot end its workers, and they must not write on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _obituary(process: BaseProcess, task: str) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"{task}: its worker process {process.pid} ended with exit code {code}"
    reason = f"was killed by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        reason += " (out of memory? fewer workers need less)"
    return f"{task}: its worker process {process.pid} {reason}"
