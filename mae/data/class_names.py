"""What the classes of a data set are called."""

from collections.abc import Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.storage.files import is_remote

FILE = "classes.txt"
"""beside the shards, a line for each class: `mae pack` writes it"""


def class_names(shards: Sequence[str], num_classes: int, run: Path | None = None) -> list[str]:
    """A name for each class: those that the folder `run` keeps, or beside the shards, or numbers.

    Beside the first shard, that is.  `shards` may be patterns, as long as the folder is none.
    """
    for names in (_lines(run / FILE) if run else [], _names(shards)):
        if len(names) == num_classes:
            return names
    return [str(i) for i in range(num_classes)]


def keep_class_names(shards: Sequence[str], num_classes: int, run: Path) -> None:
    """Copy the names beside the shards into the folder `run`, unless it has some.

    The shards may move, and their paths are often relative.  Raises UserError where it cannot be
    written.
    """
    names = _names(shards)
    if len(names) == num_classes and not (run / FILE).exists():
        with new_file(run / FILE) as part:
            part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def named_classes(shards: Sequence[str]) -> int:
    """How many classes classes.txt names; 0 where there is none."""
    return len(_names(shards))


def refuse_other_names(shards: Sequence[str], others: Sequence[str], key: str) -> None:
    """UserError where both have a classes.txt, and these differ; `key` is what `others` are."""
    ours, theirs = _names(shards), _names(others)
    if ours and theirs and ours != theirs:
        raise UserError(f"{key}: its classes.txt names other classes than the training shards'")


def _names(shards: Sequence[str]) -> list[str]:
    if not shards or is_remote(shards[0]):
        return []
    return _lines(Path(shards[0]).parent / FILE)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
