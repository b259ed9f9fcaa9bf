"""Progress display: a counter, lines of a log, the format of durations."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""called with (done, total)"""
EVERY = 10.0
"""seconds between two lines of progress"""


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


class ProgressCounter:
    """Line "`verb` 3 of 10 `things`" on stderr, with the remaining time; up to date on a terminal.

    Elsewhere a line is printed every EVERY seconds.
    """

    def __init__(self, verb: str, things: str) -> None:
        self.verb, self.things = verb, things
        self.first: int | None = None
        """what was done at the start"""
        self.start = self.last = time.monotonic()
        self.width = 0
        """of the last line"""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show what is done and all, followed by `note`."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        line = f"{self.verb} {done:,} of {total:,} {self.things}{note}"
        if self.first < done < total:
            rest = (now - self.start) * (total - done) / (done - self.first)
            line += f"  ETA {duration(rest)}"
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{line:{self.width}}", end=end, file=sys.stderr, flush=True)
            self.width = len(line)
        elif now - self.last >= EVERY:
            self.last = now
            print(line, file=sys.stderr, flush=True)


class ProgressLine:
    """Line every EVERY seconds: what is done and in all, the speed, the remaining time.

    The first one comes with the first result where the rest takes longer than that.  Work that is
    shorter has a line at its end, or none if it is `quiet`.
    """

    def __init__(self, log: Callable[[str], None], unit: str, *, quiet: bool = False) -> None:
        self.log, self.unit, self.quiet = log, unit, quiet
        self.first: int | None = None
        """what was done at the start"""
        self.start = time.monotonic()
        self.last = -EVERY
        """time of the last line"""

    def __call__(self, done: int, total: int) -> None:
        """Log a line if it is time for one, or all is done."""
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if done == self.first:
            return
        speed = (done - self.first) / max(now - self.start, 1e-9)
        rest = (total - done) / speed
        is_short = now - self.start < EVERY and rest < EVERY
        if (is_short and self.quiet) or (done < total and (now - self.last < EVERY or is_short)):
            return
        self.last = now
        eta = f"  ETA {duration(rest)}" if done < total else ""
        self.log(f"  {done:,}/{total:,}  {speed:,.0f} {self.unit}/s{eta}")


def duration(seconds: float) -> str:
    """Format a duration: 1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
