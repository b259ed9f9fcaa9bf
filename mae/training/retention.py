"""Which checkpoints stay."""

from contextlib import suppress
from pathlib import Path

from mae.training.checkpoint import checkpoints, holds, remove, step_of


def prune(folder: Path, keep_last: int, keep_every: int, written: Path) -> None:
    """Delete what is older than the `keep_last` newest good checkpoints.

    `written` is known to be good; others are read and checked before they count.  It stays, and
    so do those at multiples of `keep_every` steps (0: none).
    """
    good = 0
    for path in reversed(checkpoints(folder)):
        if good < keep_last:
            good += path == written or holds(path)
        elif path != written and not (keep_every and step_of(path) % keep_every == 0):
            with suppress(FileNotFoundError):  # another process was faster
                remove(path)


def forget_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: damaged ones, or of a future that is undone."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            remove(path)
