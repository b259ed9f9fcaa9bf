"""What a person who watches a command is told."""

import sys
from collections.abc import Callable


def progress_line(verb: str, things: str) -> Callable[[int, int], None]:
    """A line that counts, for a person only."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{verb} {done:,} of {total:,} {things}", end=end, file=sys.stderr, flush=True)

    return show
