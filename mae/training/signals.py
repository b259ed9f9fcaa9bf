"""Requests to stop: SIGTERM, SIGUSR1 (what schedulers send) and Ctrl-C."""

import signal
import threading
from types import FrameType

from mae.errors import Stopped

REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Notes a request to stop; the loop looks at `requested` after every step.

    Outside of the loop (`in_loop` False) there is nothing to finish: the request ends the start
    at once.  A second Ctrl-C never waits.
    """

    def __init__(self) -> None:
        """Take over the signals of this process; in another thread than the main one, none."""
        self.requested = ""
        """name of the signal that came"""
        self.in_loop = False
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in REQUESTS}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        if not self.in_loop:
            raise Stopped(f"stopped by {self.requested} before the first step")
