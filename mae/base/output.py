"""Standard output and errors of a command: guarded, and lasting where terminal or pipe are lost.

Nothing is printed with secrets, or with control characters from data.  A terminal is closed,
`| head -1` has read enough, a disk is full: what is printed then must neither end a run nor cost a
result.  From the first failure on the rest goes to a file, or nowhere.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, cast

from mae.base import live_line
from mae.base.redaction import shown

FILE = "output.log"
"""file in the run folder with the output of a run that has lost its terminal"""
OVERWRITE = re.compile(r"\r(?:\x1b\[K)?")
"""begins a progress line, which overwrites the one before"""


def print_error(text: str) -> None:
    """Print progress or a warning to standard error, apart from the results."""
    print(text, file=sys.stderr)


def silent(text: str) -> None:
    """Print nothing: a log for work that another process, or nobody, reports."""


class GuardedStream:
    """Text stream that writes everything as `shown`, and continues elsewhere where that fails.

    Names from data are made `printable` where they become text, so that they hold no line break
    either; `shown` is for what comes another way, such as messages of servers and libraries.
    """

    def __init__(self, stream: Any, fallback: Callable[[], Path | None] = lambda: None) -> None:
        """`fallback()`: folder for FILE; None: what follows is dropped."""
        self.stream, self.fallback = stream, fallback
        self.error: OSError | None = None
        """the first failure"""

    def write(self, text: str) -> int:
        """Write the guarded text; never fails.  Returns the length of `text`."""
        start = OVERWRITE.match(text)
        begin = start[0] if start else ""
        guarded = begin + shown(text[len(begin) :])
        with live_line.interrupted(text):
            self._attempt(lambda: self.stream.write(guarded))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush; never fails."""
        self._attempt(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._continue_elsewhere(error)
            with suppress(OSError, ValueError):
                action()

    def _continue_elsewhere(self, error: OSError | ValueError) -> None:
        self.error = self.error or (error if isinstance(error, OSError) else OSError(str(error)))
        folder = self.fallback()
        for path in ([folder / FILE] if folder else []) + [Path(os.devnull)]:
            with suppress(OSError, ValueError):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(file, self.stream.fileno())
                os.close(file)
                return


@contextmanager
def guarded_output(
    fallback: Callable[[], Path | None] = lambda: None,
) -> Iterator[GuardedStream]:
    """Guard what this process prints, the traceback of an error that ends it included.

    Yields standard output.  Within another such context it changes the `fallback` only.
    """
    _open_missing()
    sys.excepthook = _print_traceback
    before = sys.stdout, sys.stderr
    out, errors = map(_guarded, before)
    fallbacks = out.fallback, errors.fallback
    out.fallback = errors.fallback = fallback
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
    try:
        with live_line.watched():
            yield out
    finally:
        for stream in (out, errors):
            stream.flush()  # while failures are still caught
        out.fallback, errors.fallback = fallbacks
        sys.stdout, sys.stderr = before


def _guarded(stream: Any) -> GuardedStream:
    return stream if isinstance(stream, GuardedStream) else GuardedStream(stream)


def _print_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    with guarded_output():
        traceback.print_exception(kind, error, where)


def _open_missing() -> None:
    """Open the standard files that the parent process has closed (`>&-`), as nowhere.

    Else the next files that are opened, checkpoints for instance, would take their place.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(file)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
