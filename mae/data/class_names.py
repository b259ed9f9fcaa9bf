"""What the classes of a data set are called."""

from collections.abc import Sequence
from pathlib import Path

from mae.remote.files import is_remote

FILE = "classes.txt"
"""beside the shards, a line for each class: `mae pack` writes it"""


def class_names(shards: Sequence[str], num_classes: int) -> list[str]:
    """A name for each class: those of classes.txt beside the first shard, else the numbers.

    `shards` may be patterns, as long as the folder is none.
    """
    numbers = [str(i) for i in range(num_classes)]
    if not shards or is_remote(shards[0]):
        return numbers
    try:
        names = (Path(shards[0]).parent / FILE).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return numbers
    return names if len(names) == num_classes else numbers
