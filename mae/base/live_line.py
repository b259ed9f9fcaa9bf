"""Line of a terminal that is overwritten in place, one at a time in a process.

What else is printed through `mae.base.output.GuardedStream` first ends that line: a lasting one
stays, and the output begins below it; another is erased, and its owner draws it again.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ERASE = "\r\x1b[K"
"""to the first column, and erase the line"""


class _Line:
    """State of the live line of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stream: Any = None
        """where the line is; None: none is open"""
        self.lasts = False
        self.owner: object = None
        self.drawn_at = -1e9
        self.is_mid_line = False
        """other output has begun a line and not ended it"""
        self.quiet_since: float | None = None
        """time of the last output of a command; None: the output is not guarded"""


_line = _Line()


def _begin_anew() -> None:
    global _line
    _line = _Line()


# A forked worker must find neither a held lock nor its parent's line.
os.register_at_fork(
    before=lambda: _line.lock.acquire(),
    after_in_parent=lambda: _line.lock.release(),
    after_in_child=_begin_anew,
)


def draw(stream: Any, text: str, owner: object, *, lasts: bool = False) -> None:
    """Overwrite the live line of the terminal `stream`, or begin one.

    `text` is cut to the terminal's width.  `lasts`: other output leaves the line in place.
    """
    with _line.lock:
        if _line.stream is not None and (_line.stream is not stream or _line.lasts > lasts):
            _end()
        _line.stream, _line.lasts, _line.owner = stream, lasts, owner
        _line.drawn_at = time.monotonic()
        width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be overwritten
        print(f"{ERASE}{text[:width]}", end="", file=stream, flush=True)


def end() -> None:
    """End the live line, if one is open; what it shows stays."""
    with _line.lock:
        _line.lasts = True
        _end()


def clear() -> None:
    """Make room for other output: a lasting line stays, another is erased."""
    with _line.lock:
        _end()


@contextmanager
def watched() -> Iterator[None]:
    """Context of a command whose output is guarded: `quiet_since` is known."""
    before, _line.quiet_since = _line.quiet_since, time.monotonic()
    try:
        yield
    finally:
        _line.quiet_since = before


def quiet_since() -> float | None:
    """Time (monotonic) of the last output of the command, or its start; None: not known."""
    return _line.quiet_since


def is_free_for(owner: object, seconds: float) -> bool:
    """True where `owner` drew last, or nobody for so many seconds, and no other line is begun."""
    is_own = _line.owner is owner or time.monotonic() - _line.drawn_at >= seconds
    return is_own and not _line.is_mid_line


@contextmanager
def interrupted(text: str) -> Iterator[None]:
    """Context in which `text` is written where no live line is."""
    with _line.lock:
        is_other = bool(text) and not text.startswith("\r")
        if is_other:
            _end()
        yield
        if text and _line.quiet_since is not None:
            _line.quiet_since = time.monotonic()
        if is_other:
            _line.is_mid_line = not text.endswith("\n")


def _end() -> None:
    stream, _line.stream = _line.stream, None
    if stream is not None:
        under = getattr(stream, "stream", stream)  # the guarded stream's own `write` comes here
        with suppress(OSError, ValueError):  # what is printed next finds the terminal lost
            under.write("\n" if _line.lasts else ERASE)
            under.flush()
