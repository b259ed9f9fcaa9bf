"""What the classes of a data set are called."""

from collections.abc import Sequence
from pathlib import Path

from mae.errors import UserError
from mae.remote.files import is_remote

FILE = "classes.txt"
"""beside the shards, a line for each class: `mae pack` writes it"""


def class_names(shards: Sequence[str], num_classes: int) -> list[str]:
    """A name for each class: those of classes.txt beside the first shard, else the numbers.

    `shards` may be patterns, as long as the folder is none.
    """
    names = _names(shards)
    return names if len(names) == num_classes else [str(i) for i in range(num_classes)]


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
    try:
        return (Path(shards[0]).parent / FILE).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
