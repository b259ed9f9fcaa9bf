import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from mae.base.errors import SampleError, WorkerDied
from mae.data.task_pool import run_tasks
from tests.waiting import wait_for


def square(number):
    return number**2


@pytest.mark.parametrize("workers", [0, 1, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_task_is_done_once(workers, count):
    tasks = list(range(10, 10 + count))
    done = sorted(run_tasks(square, tasks, workers))
    assert done == [(number, task**2) for number, task in enumerate(tasks)]


def test_tasks_are_done_by_several_processes():
    def where(task):
        time.sleep(0.2)
        return os.getpid()

    found = {process for _, process in run_tasks(where, range(4), 2)}
    assert len(found) == 2 and os.getpid() not in found


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_out_as_they_are(workers):
    def fail(task):
        if task == 3:
            raise SampleError("the third")
        return task

    with pytest.raises(SampleError, match="the third"):
        list(run_tasks(fail, range(6), workers))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"SIGKILL \(out of memory\?"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "killed by SIGTERM"),
        (lambda: os._exit(7), "ended with exit code 7"),
    ],
)
def test_a_worker_that_dies_is_named_with_its_task(end, message):
    def die(task):
        if task == 4:
            end()
        return task

    with pytest.raises(WorkerDied, match=rf"task 4: its worker process \d+ .*{message}"):
        list(run_tasks(die, range(8), 2, lambda task: f"task {task}"))


def test_a_worker_killed_between_tasks_is_named():
    """It has answered: sending it the next task fails, not receiving."""
    results = run_tasks(lambda task: os.getpid(), range(8), 2)
    _, first = next(results)
    (other,) = (child for child in multiprocessing.active_children() if child.pid != first)
    time.sleep(0.5)
    other.kill()
    other.join()
    with pytest.raises(WorkerDied, match=rf"its worker process {other.pid} was killed by SIGKILL"):
        list(results)


def test_nobody_is_left_when_the_caller_stops():
    def slowly(task):
        if task:
            time.sleep(60)
        return os.getpid()

    results = run_tasks(slowly, range(5), 2)
    start = time.monotonic()
    _, process = next(results)
    results.close()
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_workers_end_with_their_parent(tmp_path):
    """A parent killed outright: its workers must not write on."""
    code = (
        "import os, sys, time; from mae.data.task_pool import run_tasks\n"
        "def work(task):\n"
        "    open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(600)\n"
        "list(run_tasks(work, range(4), 2))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.kill()
    for path in tmp_path.iterdir():
        wait_for(lambda process=int(path.name): not alive(process))


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
