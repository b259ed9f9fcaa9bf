"""Standard output and error of a command, guarded: no secrets, no control characters from data."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from mae.base.redaction import shown

OVERWRITE = re.compile(r"\r(?:\x1b\[K)?")
"""begins a progress line, which overwrites the one before"""


class _Guarded:
    """Text stream that writes everything as `shown`, line breaks and tabs included.

    Names from data are made `printable` where they become text, so that they hold no line break
    either; this is for what comes another way, such as messages of servers and libraries.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the guarded text; returns the length of `text`."""
        start = OVERWRITE.match(text)
        begin = start[0] if start else ""
        self.stream.write(begin + shown(text[len(begin) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write all `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard what this process prints, the traceback of an error that ends it included."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guarded, before)
    sys.excepthook = _print_traceback
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _guarded(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, _Guarded) else _Guarded(stream)


def _print_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    with guarded_output():
        traceback.print_exception(kind, error, where)
