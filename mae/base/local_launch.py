"""Launch of a command on several processes of this machine: the option `--processes`.

The processes are started and watched by `torch.distributed.elastic`, as torchrun and `accelerate
launch` do: each gets RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
Here it is called from Python, so that only the processes print, and the exit code is theirs.
"""

import argparse
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from mae.base.device import check_gpus, usable_cores
from mae.base.errors import RunFailed, Stopped, UserError
from mae.base.exit_status import (
    DONE,
    FAILED,
    STATUS_FILE,
    STATUS_VARIABLE,
    STOPPED,
    exit_code,
    read_exit_status,
)
from mae.base.launch import passed_on

OPTION = "--processes"
AUTO = "auto"
"""value of the option: one process for each GPU"""
SAVING_TIMEOUT = 600
"""seconds for processes that were asked to stop to end, before they are killed"""
RUNS = ("mae.pretrain", "mae.finetune")
"""modules that can be stopped at any moment and resume"""
STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    if name in signal.Signals.__members__  # Windows lacks the last
)
"""requests to stop in order; SIGUSR1 is a scheduler's early warning"""


def processes_option(parser: argparse.ArgumentParser) -> None:
    """Add --processes to the help of a command; `split_processes` reads it."""
    parser.add_argument(
        OPTION,
        metavar="N",
        type=_refuse_abbreviation,
        help="processes on this machine, each with a GPU of its own; without GPUs, or where the "
        "command uses none, they share the CPU cores (auto: one for each GPU that is used, else 1)",
    )


def split_processes(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words of a command line without --processes, and its value; None where it is absent."""
    rest, asked = [], None
    following = iter(words)
    for word in following:
        if word == "--":
            rest += [word, *following]
        elif word == OPTION:
            asked = next(following, "")
        elif word.startswith(f"{OPTION}="):
            asked = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, asked


def launched(
    asked: str | None,
    module: str,
    words: Sequence[str],
    check: Callable[[], Any],
    uses_gpus: bool = True,
) -> int | None:
    """Run `python -m MODULE WORDS` on as many processes as `asked` for; the exit code.

    None, and nothing is run, where one process was asked for: it is this one.  `check` raises
    UserError for what is wrong on all processes, before any is started.  `uses_gpus`: each
    process takes a GPU, where there are GPUs.
    """
    count = 1

    def work() -> int | None:
        nonlocal count
        check()
        number = process_count(asked or "", uses_gpus)
        count = number
        return launch(module, words, number) if number > 1 else None

    if asked is None:
        return None
    code = exit_code(work)
    return None if code == DONE and count == 1 else code


def process_count(asked: str, uses_gpus: bool = True) -> int:
    """Number of processes of --processes; raises UserError where they cannot be started."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started not in ("", "1"):
        raise UserError(
            f"{OPTION}: a launcher has started {started} processes already (WORLD_SIZE): give the "
            "number to that launcher, or use none"
        )
    if asked != AUTO and not (asked.isdecimal() and int(asked) > 0):
        raise UserError(f"{OPTION}: a number of 1 or more, or {AUTO} (one for each GPU): {asked!r}")
    if asked == AUTO:
        return _gpus() or 1 if uses_gpus else 1
    if uses_gpus and asked != "1":
        check_gpus(int(asked))
    return int(asked)


def launch(module: str, words: Sequence[str], count: int) -> int:
    """Run `python -m MODULE WORDS` on `count` processes of this machine, to the end of all.

    The exit code is that of the process that ended first with an error, or that of the run's exit
    status after a signal.  Signals are passed on; a third Ctrl-C kills.  Raises RunFailed where a
    process was killed, or none could be started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mae-launch-", ignore_cleanup_errors=True) as own,
        _environment(
            OMP_NUM_THREADS=str(max(1, usable_cores() // count)),
            TORCH_ELASTIC_SHUTDOWN_TIMEOUT=str(SAVING_TIMEOUT),
            **{STATUS_VARIABLE: f"{own}/{STATUS_FILE}", **passed_on(os.environ)},
        ),
        _Signals() as signals,
    ):
        try:
            return _launch(module, words, count, signals)
        except Stopped as error:
            if status := read_exit_status(Path(os.environ[STATUS_VARIABLE])):
                return status.code or STOPPED  # done, but what follows a run may be missing
            if module not in RUNS:
                if signal.SIGINT in signals.received:  # the first process has reported it
                    return FAILED
                raise RunFailed(str(error)) from None
            where = "before the first step; the same command continues the run"
            print(f"mae: {error} {where}", file=sys.stderr)
            return STOPPED


def _launch(module: str, words: Sequence[str], count: int, signals: "_Signals") -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # of the launcher: this process does nothing else
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle="SIGQUIT",  # the others are those of `signals`
    )
    signals.error = SignalException
    try:
        elastic_launch(config, sys.executable)("-m", module, *words)
    except SignalException as error:
        raise Stopped(f"stopped by {error.sigval.name}") from None
    except ChildFailedError as error:
        failures = error.failures.items()
        # Timestamps are whole seconds: a death may be as late as the errors that follow from it.
        rank, first = min(failures, key=lambda one: (one[1].timestamp, _order(one[1].exitcode)))
        if first.exitcode > 0:
            return first.exitcode
        name = signal.Signals(-first.exitcode).name
        cause = ", perhaps out of memory" if name == "SIGKILL" else ""
        raise RunFailed(
            f"process {rank} of {count} was killed by {name}{cause}; the same command continues"
        ) from None
    except (RendezvousError, OSError) as error:
        raise RunFailed(f"{OPTION} {count}: cannot be started: {error}") from None
    finally:
        logging.disable(logging.NOTSET)
    return DONE


def _order(code: int) -> int:
    """Likelihood as a cause: killed, ended by itself, ended by the launcher's SIGTERM."""
    return 2 if code == -signal.SIGTERM else int(code > 0)


class _Signals:
    """Handlers of stop signals while processes run: the first one ends the launch in order.

    It raises `error`, upon which the launcher passes the signal on and waits.  Later ones are
    passed on to the processes; the third Ctrl-C kills them.  A lost terminal (SIGHUP) is ignored.
    """

    def __init__(self) -> None:
        self.error: Callable[[str, signal.Signals], BaseException] = _stopped
        self.received: list[int] = []
        self.before: dict[int, Any] = {}
        self.others = {child.pid for child in psutil.Process().children()}
        """children of this process that are none of the launch"""

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
            for number in (signal.SIGHUP, signal.SIGQUIT):  # the launcher sets SIGQUIT
                self.before[number] = signal.getsignal(number)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *error: object) -> None:
        self._pass_on(signal.SIGKILL)  # none is left, unless a signal came as they started
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            raise self.error(f"stopped by {signal.Signals(number).name}", signal.Signals(number))
        is_third = self.received.count(signal.SIGINT) > 2
        self._pass_on(signal.SIGKILL if is_third else number)

    def _pass_on(self, number: int) -> None:
        """Send a signal to the processes, each of which leads a group with its data workers."""
        for process in psutil.Process().children():
            if process.pid not in self.others:
                with suppress(OSError):
                    os.killpg(process.pid, number)


def _stopped(text: str, number: signal.Signals) -> BaseException:
    return Stopped(text)


@contextmanager
def _environment(**defaults: str) -> Iterator[None]:
    """Environment variables for a while, where they are not set already."""
    before = os.environ.copy()
    try:
        os.environ.update(defaults | before)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _refuse_abbreviation(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"write {OPTION} in full")
