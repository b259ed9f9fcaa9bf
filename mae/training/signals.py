"""Requests to stop: SIGTERM, SIGUSR1 (what schedulers send) and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mae.base.errors import Stopped

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
