"""Watch over the waits for data of a run: one that never ends must not keep the job for ever."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICKS = 30
"""number of checks within the longest wait"""


class DataWatch:
    """Thread that calls `expired` once a wait for data has taken longer than `seconds`.

    The waiting thread itself cannot act: it may be in a read that never returns.  Should it go on
    nevertheless, it is held, since the process ends.
    """

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        self.expired = expired
        self.interval = seconds / TICKS
        self.ticks: int | None = None
        """number of ticks since the wait began; None: no wait"""
        self.lock = threading.Lock()
        self.closed = threading.Event()
        threading.Thread(target=self._watch, name="data-watch", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait for data."""
        self.ticks = 0
        try:
            yield
        finally:
            with self.lock:
                self.ticks = None

    def close(self) -> None:
        """End the thread."""
        self.closed.set()

    def _watch(self) -> None:
        # Ticks, not times: a process that was suspended as a whole has not waited.
        while not self.closed.wait(self.interval):
            with self.lock:
                if self.ticks is None:
                    continue
                self.ticks += 1
                if self.ticks > TICKS:
                    self.expired()
                    return
