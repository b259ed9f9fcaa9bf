"""The end of a start: errors and signals become an exit code, a line, and exit-status."""

import contextlib
import os
import sys
import time
from collections.abc import Callable

from mae.base.errors import (
    ProcessFailed,
    ProcessStopped,
    RunFailed,
    SampleError,
    Stopped,
    StorageError,
    UserError,
)
from mae.base.exit_status import DONE, FAILED, STOPPED, WRONG_USE, Word, append_event, record_exit
from mae.training.run import Run
from mae.training.signals import StopSignals

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
        record_exit(folder, Word(code, step, reason))
        if folder:
            append_event(folder, step, "done" if code == DONE else "stop", reason)
