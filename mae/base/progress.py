"""Progress display on a terminal: a bar, a counter, and the format of durations."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""called with (done, total)"""


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Yield a callback that moves a progress bar on stderr; nothing is shown off a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with tqdm(unit=f" {unit}", unit_scale=True, dynamic_ncols=True, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def progress_counter(verb: str, things: str) -> Progress:
    """Callback that updates the line "`verb` 3 of 10 `things`" on stderr, on a terminal only."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{verb} {done:,} of {total:,} {things}", end=end, file=sys.stderr, flush=True)

    return show


def duration(seconds: float) -> str:
    """Format a duration: 1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
