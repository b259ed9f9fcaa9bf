"""Lifecycle of a run's process: stop signals, cleanup, errors and exit status."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn, TypeVar

from mae.base.errors import (
    ProcessFailed,
    ProcessStopped,
    RunFailed,
    SampleError,
    Stopped,
    StorageError,
    UserError,
)
from mae.base.exit_status import (
    DONE,
    FAILED,
    FIRST_PROCESS_SECONDS,
    STOPPED,
    WRONG_USE,
    ExitStatus,
    append_event,
    write_exit_status,
)
from mae.base.local_launch import STOP_SIGNALS
from mae.base.output import guarded_output
from mae.base.process_group import MARK
from mae.training.checkpoint.run import Run

Result = TypeVar("Result")

LAUNCHER = "TORCHELASTIC_RUN_ID"
"""environment variable of processes whose launcher kills them some time after a signal"""
AGAIN_SECONDS = 2.0
"""seconds after which a second signal is a request of its own: schedulers signal all processes,
and launchers pass that on"""
AGAIN_SECONDS_LAUNCHED = 10.0
"""the same where a launcher or a supervisor is between: it may be slow"""
LOST_PEER = (
    "Connection reset by peer",
    "Connection closed by peer",
    "Broken pipe",
    "remote process exited",
)
"""texts of gloo and NCCL in errors of a collective operation whose other process has ended"""
DATA_WAIT_SECONDS = 10
"""seconds that a run waits for data after a stop signal; launchers kill after 30"""


class StopSignals:
    """Handler of stop signals; the training loop checks `requested` after every step.

    Outside the loop (`in_loop` False) there is no step to finish: the signal raises Stopped at
    once.  In the loop it is acknowledged; a second request (Ctrl-C, or SIGTERM a few seconds later)
    raises KeyboardInterrupt.  SIGUSR1 is a scheduler's early warning, and no first request.

    SIGHUP, a lost terminal, is ignored as under `nohup`: the run goes on.  Only where a launcher of
    several processes gets it too, and kills them 30 seconds later, it is a request to stop.
    """

    def __init__(self) -> None:
        """Install the signal handlers; does nothing outside the main thread."""
        self.requested = ""
        """name of the signal that was received; empty: none"""
        self.in_loop = False
        """training steps are running; a signal lets the current one finish"""
        self.place = "before the first step"
        """phase of the run outside the loop, for the message"""
        self.is_waiting = False
        self.asked_at: float | None = None
        """time of the first request that was no early warning"""
        is_launched = LAUNCHER in os.environ
        may_repeat = is_launched or MARK in os.environ
        self.again_seconds = AGAIN_SECONDS_LAUNCHED if may_repeat else AGAIN_SECONDS
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._stop) for number in STOP_SIGNALS}
            hang_up = self._stop if is_launched else signal.SIG_IGN
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored under nohup
                self.before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._handle_alarm)

    def enter_loop(self) -> None:
        """Let a signal wait for the current step, or for whatever must not be interrupted."""
        self.in_loop = True

    def leave_loop(self) -> None:
        """Let a signal stop at once again, after the last step."""
        self.in_loop, self.place = False, "after the last step"

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait for data, which a stop signal may interrupt after DATA_WAIT_SECONDS."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.before = {}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now, is_first = time.monotonic(), not self.requested
        if self.asked_at is not None and number != signal.SIGUSR1:
            is_second_ctrl_c = number == signal.SIGINT and self.requested == "SIGINT"
            if is_second_ctrl_c or now - self.asked_at >= self.again_seconds:
                raise KeyboardInterrupt
            return
        if number != signal.SIGUSR1:
            self.asked_at = now
        self.requested = signal.Signals(number).name
        if is_first and self.in_loop and os.environ.get("RANK", "0") == "0":
            _print_now(
                f"mae: {self.requested}: finishing this step, then saving; again to leave now"
            )
        if not self.in_loop:
            raise Stopped(f"stopped by {self.requested} {self.place}")
        signal.alarm(DATA_WAIT_SECONDS)

    def _handle_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.is_waiting:
            raise Stopped(f"stopped by {self.requested} while waiting for data")
        signal.alarm(DATA_WAIT_SECONDS)


def _has_lost_peer(error: RuntimeError) -> bool:
    """True where another process has ended, and reports the reason, or its launcher does."""
    text = str(error)
    return ("gloo" in text or "NCCL" in text) and any(words in text for words in LOST_PEER)


def _print_now(text: str) -> None:
    """Print to standard error, from a signal handler too, where `print` may fail."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{text}\n".encode())


class Outcome(NamedTuple):
    """End of the work of a process."""

    code: int
    """exit code"""
    reason: str
    is_local: bool = False
    """only this process may have met the error, so it reports it itself"""
    is_common: bool = False
    """the first process usually meets the error too, or has ended with the cause"""


def outcome_of(error: BaseException) -> Outcome | None:
    """Outcome of an error that is reported in words; None: of one that needs its traceback."""
    match error:
        case UserError():
            is_local = isinstance(error, SampleError | StorageError)
            return Outcome(WRONG_USE, str(error), is_local, is_common=True)
        case RunFailed():
            return Outcome(FAILED, str(error), is_local=isinstance(error, ProcessFailed))
        case RuntimeError() if _has_lost_peer(error):
            return Outcome(FAILED, "another process of the run has ended", is_common=True)
        case Stopped():
            reason = f"{error}; the same command continues the run"
            return Outcome(STOPPED, reason, is_local=isinstance(error, ProcessStopped))
        case KeyboardInterrupt():
            return Outcome(FAILED, "interrupted; the same command continues the run")
    return None


class RunLifecycle:
    """Stop signals, cleanup and exit status of one process, around one or several runs."""

    def __init__(self) -> None:
        self.stop = StopSignals()
        self.run: Run | None = None
        """the current run, once its folder is known"""
        self.cleanup = contextlib.ExitStack()
        """closed after the exit status is printed, since closing may wait for a server"""
        self.run_cleanup = contextlib.ExitStack()
        """the part of `cleanup` that belongs to the current run"""
        # Closed last: a signal from the launcher must not kill a process that is done.
        self.cleanup.callback(self.stop.restore)
        self.cleanup.push(self.run_cleanup)

    def finish_run(self) -> None:
        """Record that the current run is done; another run or an evaluation follows."""
        self._report(Outcome(DONE, "done"))
        self.run_cleanup.close()
        self.run = None
        self.stop.leave_loop()

    def execute(self, work: Callable[[], None]) -> int:
        """Run `work`, report its error if any, and return the exit code.

        0 done, 1 failed, 2 wrong use, 75 stopped early.
        """
        with guarded_output(self._folder_for_output), self.cleanup:
            try:
                work()
                outcome = Outcome(DONE, "done")
            except BaseException as error:
                found = outcome_of(error)
                if found is None:
                    raise
                outcome = found
                if isinstance(error, KeyboardInterrupt):
                    self._report(outcome)
                    # At once: without waiting for a checkpoint being written or a tracker's
                    # uploads.
                    os._exit(outcome.code)
            self.stop.enter_loop()  # a signal must not interrupt what follows
            self._report(outcome)
            return outcome.code

    def call(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a program that goes on afterwards; returns its result.

        Its error is recorded in the run folder, not printed, and raised.  The folder is free for
        other processes then.
        """
        with contextlib.ExitStack() as last, guarded_output(self._folder_for_output), self.cleanup:
            try:
                result = work()
                self.stop.enter_loop()  # a signal must not interrupt what follows
                self._record(Outcome(DONE, "done"))
                return result
            except BaseException as error:
                self.stop.enter_loop()
                if outcome := outcome_of(error):
                    self._record(outcome)
                raise
            finally:
                if self.run is not None:
                    last.callback(self.run.close)

    def _folder_for_output(self) -> Path | None:
        """The run folder, once it is this run's."""
        run = self.run
        return run.folder if run is not None and run.is_open and run.is_own() else None

    def end_process(self, error: ProcessFailed) -> NoReturn:
        """Report `error` and end the process at once, from any thread; workers are killed."""
        self._report(Outcome(FAILED, str(error), is_local=True))
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(FAILED)

    def _report(self, outcome: Outcome) -> None:
        """Print and record the outcome, once for all processes."""
        is_first, is_local = os.environ.get("RANK", "0") == "0", outcome.is_local
        if outcome.is_common and not (is_first or is_local):
            # The launcher ends all processes when the first of them exits: leave process 0 the
            # time to report the error alone.
            deadline = time.monotonic() + FIRST_PROCESS_SECONDS
            while not self.stop.requested and time.monotonic() < deadline:
                time.sleep(0.1)
            is_local = not self.stop.requested
        if not (is_first or is_local):
            return
        if outcome.code != DONE:
            for line in outcome.reason.split("\n"):
                print(f"mae: {line}", file=sys.stderr, flush=True)
        self._record(outcome)

    def _record(self, outcome: Outcome) -> None:
        """Write the outcome to the run's exit status and events."""
        run, code, reason = self.run, outcome.code, outcome.reason
        is_own = run is not None and run.is_own()
        folder = run.folder if run is not None and run.is_open and is_own else None
        step = run.newest_step() if run is not None and is_own else None
        write_exit_status(folder, ExitStatus(code, step, reason))
        if folder:
            append_event(folder, step, "done" if code == DONE else "stop", reason)
