"""`python -m tests.killed PARTS PROGRAM …`: kill −9 of a module once it has written some parts.

Each process of a launch is killed after PARTS parts of its divided work.  `stopped_after` stops
a command in this process, as SIGTERM does.
"""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from mae.base.divided_work import DividedWork
from mae.base.errors import Stopped


def main(argv: list[str]) -> None:
    """Run the module, and kill it."""
    parts, program, *words = argv
    DividedWork._write = ending_after(int(parts), lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = [program, *words]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def stopped_after(parts: int) -> Iterator[None]:
    """Stop in this process once as many parts are written."""

    def stop() -> None:
        raise Stopped("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DividedWork, "_write", ending_after(parts, stop))
        yield


def ending_after(parts: int, end: Callable[[], None]) -> Callable[..., None]:
    """`DividedWork._write` that calls `end` after as many parts."""
    left, write = parts, DividedWork._write

    def write_and_end(
        self: DividedWork, name: str, number: int, result: bytes, *, replaces: bool = True
    ) -> None:
        nonlocal left
        write(self, name, number, result, replaces=replaces)
        left -= 1
        if left == 0:
            end()

    return write_and_end


if __name__ == "__main__":
    main(sys.argv[1:])
