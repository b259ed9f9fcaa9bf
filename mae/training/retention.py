"""Which checkpoints stay."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mae.training.checkpoint import DAMAGED, checkpoints, holds, remove, step_of


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


def set_aside(folder: Path, damaged: Iterable[Path]) -> Path | None:
    """Keep the newest of these as step-….damaged, in the place of any kept so before.

    Whoever wants to may look at it, or mend it; the others stay as they are.  Returns its path.
    """
    newest = max(damaged, key=step_of, default=None)
    if newest is None:
        return None
    for path in folder.glob(f"step-*{DAMAGED}"):
        remove(path)
    return newest.rename(newest.with_suffix(DAMAGED))


def forget_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: damaged ones, or of a future that is undone."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            remove(path)
