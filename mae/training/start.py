"""Start and end of a run: signals that stop it, errors and exit status."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
    STOPPED,
    WRONG_USE,
    ExitStatus,
    append_event,
    write_exit_status,
)
from mae.config.sections import Config
from mae.training.checkpoint.run import Run

REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PATIENCE = 10
"""seconds that a request to stop still waits for data; launchers kill after 30"""


class StopSignals:
    """Notes a request to stop; the loop looks at `requested` after every step.

    Before the loop (`in_loop` False) there is nothing to finish: the request ends the start at
    once.  A second Ctrl-C never waits.
    """

    def __init__(self) -> None:
        """Take over the signals of this process; in another thread than the main one, none."""
        self.requested = ""
        """name of the signal that came"""
        self.in_loop = False
        self.place = "before the first step"
        """of a start that is not in the loop, for the message"""
        self.is_waiting = False
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in REQUESTS}
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._lose_patience)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While data is waited for: Stopped where it does not come soon after a request."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False

    def restore(self) -> None:
        """Give the signals back."""
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        if not self.in_loop:
            raise Stopped(f"stopped by {self.requested} {self.place}")
        signal.alarm(PATIENCE)

    def _lose_patience(self, number: int, frame: FrameType | None) -> None:
        if self.is_waiting:
            raise Stopped(f"stopped by {self.requested} while waiting for data")
        signal.alarm(PATIENCE)


SECONDS_FIRST = 10
"""that the first process has to say alone what all of them met"""


class Ending:
    """Signals of a start, and what is to be closed and recorded when it is over."""

    def __init__(self) -> None:
        self.stop = StopSignals()
        self.run: Run | None = None
        """once its folder is known"""
        self.last = contextlib.ExitStack()
        """what may wait for a server, and so is closed after the last words"""
        self.of_run = contextlib.ExitStack()
        """the same, of the run that is trained"""
        # After all else: a launcher's signal must not kill what is done.
        self.last.callback(self.stop.restore)
        self.last.push(self.of_run)

    def end_run(self) -> None:
        """Record that the run is done, before the work is: another run, or a test, follows."""
        self._record(DONE, "done", False)
        self.of_run.close()
        self.run = None
        self.stop.in_loop, self.stop.place = False, "after the last step"

    def exit_code(self, work: Callable[[], None]) -> int:
        """Do `work`; the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
        with self.last:
            is_own = False
            try:
                work()
                code, reason = DONE, "done"
            except UserError as error:
                code, reason = WRONG_USE, str(error)
                is_own = isinstance(error, SampleError | StorageError)
            except RunFailed as error:
                code, reason, is_own = FAILED, str(error), isinstance(error, ProcessFailed)
            except Stopped as error:
                code, reason = STOPPED, f"{error}; the same command continues the run"
                is_own = isinstance(error, ProcessStopped)
            except KeyboardInterrupt:
                code, reason = FAILED, "interrupted; the same command continues the run"
                self._record(code, reason, is_own)
                # At once: not after what is being written, and what a tracker still sends.
                os._exit(code)
            self.stop.in_loop = True  # nothing is left to be stopped
            self._record(code, reason, is_own)
            return code

    def _record(self, code: int, reason: str, is_own: bool) -> None:
        """Print and record the reason, once for all processes; `is_own`: met by this one alone."""
        is_first = os.environ.get("RANK", "0") == "0"
        if code == WRONG_USE and not (is_first or is_own):
            # The launcher ends all processes with the first that leaves: give the first process,
            # which mostly meets the same error, the time to say it alone.
            until = time.monotonic() + SECONDS_FIRST
            while not self.stop.requested and time.monotonic() < until:
                time.sleep(0.1)
            is_own = not self.stop.requested
        if not (is_first or is_own):
            return
        if code != DONE:
            for line in reason.splitlines():
                print(f"mae: {line}", file=sys.stderr, flush=True)
        run = self.run
        folder = run.folder if run is not None and run.is_open else None
        step = run.newest_step() if run else None
        write_exit_status(folder, ExitStatus(code, step, reason))
        if folder:
            append_event(folder, step, "done" if code == DONE else "stop", reason)


def start(load: Callable[[], Config], is_dry: bool = False) -> int:
    """Carry out the run that `load` describes, or with `is_dry` only try it out.

    Returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early.
    """
    ending = Ending()

    def work() -> None:
        config = load()
        # torch comes with it: not for a misspelt setting
        from mae.training.train import leave_processes, train

        train(config, ending, is_dry)
        leave_processes()

    return ending.exit_code(work)
