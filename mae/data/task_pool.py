"""Task pool over worker processes; a worker that dies raises an error instead of a hang."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from mae.base.divided_work import Work
from mae.base.errors import WorkerDied

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Worker(NamedTuple):
    process: BaseProcess
    number: int = -1
    task: Any = None


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    name: Callable[[Task], str] = str,
) -> Generator[tuple[int, Result]]:
    """(task number, result) in order of completion; with 0 workers in order, in this process.

    `function` is sent to each process once, the tasks one by one, as `tasks` yields them; the
    processes are started before the first one.  Raises what `function` raises, and WorkerDied where
    a process dies, naming its task by `name`.
    """
    if workers == 0:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    import torch  # noqa: F401 - before the fork, so that workers do not import it again

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    running: dict[Connection, _Worker] = {}
    todo = enumerate(tasks)

    def give_next(here: Connection, process: BaseProcess) -> None:
        following = next(todo, None)
        if following is None:
            del running[here]
            with suppress(ConnectionError):
                # Workers forked later hold this end too: closing it signals nothing.
                here.send(None)
            here.close()
            process.join()
        else:
            running[here] = _Worker(process, *following)
            with suppress(ConnectionError):  # dead already: seen when its answer is received
                here.send(following[1])

    try:
        for _ in range(min(workers, len(tasks)) if isinstance(tasks, Sized) else workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, function), daemon=True)
            process.start()
            there.close()  # so that a dead worker closes the pipe
            running[here] = _Worker(process)
        for here, worker in list(running.items()):
            give_next(here, worker.process)
        while running:
            for here in wait(list(running)):
                assert isinstance(here, Connection)
                process, number, task = running[here]
                try:
                    result, error = here.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    raise WorkerDied(_death_message(process, name(task))) from None
                if error is not None:
                    raise error
                give_next(here, process)
                yield number, result
    finally:
        for here, worker in running.items():
            here.close()
            worker.process.terminate()
        for worker in running.values():
            worker.process.join(5)
            worker.process.kill()
            worker.process.join()


def on_workers(
    function: Callable[[Task], bytes],
    task_of: Callable[[int], Task],
    workers: int,
    name: Callable[[Task], str] = str,
) -> Work:
    """Divided work whose part i is the result of `function` for `task_of(i)`, as by `run_tasks`."""

    def work(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        tasks = [task_of(number) for number in numbers]
        for place, result in run_tasks(function, tasks, workers, name):
            yield numbers[place], result

    return work


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
