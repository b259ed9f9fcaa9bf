"""Standard output and errors that outlive their terminal or pipe.

A terminal is closed, `| head -1` has read enough, a disk is full: what is printed then must neither
end a run nor cost a result.  From the first failure on the rest goes to a file, or nowhere.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

FILE = "output.log"
"""file in the run folder with the output of a run that has lost its terminal"""


class LastingStream:
    """Text stream that continues elsewhere where writing fails; other uses as of `stream`."""

    def __init__(self, stream: Any, fallback: Callable[[], Path | None] = lambda: None) -> None:
        """`fallback()`: folder for FILE; None: what follows is dropped."""
        self.stream, self.fallback = stream, fallback
        self.error: OSError | None = None
        """the first failure"""

    def write(self, text: str) -> int:
        """Write `text`; never fails."""
        try:
            return self.stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._continue_elsewhere(error)
            with suppress(OSError, ValueError):
                self.stream.write(text)
            return len(text)

    def flush(self) -> None:
        """Flush; never fails."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._continue_elsewhere(error)
            with suppress(OSError, ValueError):
                self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

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
def lasting_output(
    fallback: Callable[[], Path | None] = lambda: None,
) -> Iterator[tuple[LastingStream, LastingStream]]:
    """Context in which printing never fails; yields standard output and errors.

    Within another such context it changes the `fallback` only.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    found = tuple(map(_lasting, before))
    out, errors = (
        inner or LastingStream(stream) for inner, stream in zip(found, before, strict=True)
    )
    fallbacks = out.fallback, errors.fallback
    out.fallback = errors.fallback = fallback
    sys.stdout = before[0] if found[0] else cast(TextIO, out)
    sys.stderr = before[1] if found[1] else cast(TextIO, errors)
    try:
        yield out, errors
    finally:
        for stream in (out, errors):
            stream.flush()  # while failures are still caught
        out.fallback, errors.fallback = fallbacks
        sys.stdout, sys.stderr = before


def _lasting(stream: Any) -> LastingStream | None:
    """The LastingStream that `stream` is or wraps."""
    while stream is not None and not isinstance(stream, LastingStream):
        stream = vars(stream).get("stream") if hasattr(stream, "__dict__") else None
    return stream


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
