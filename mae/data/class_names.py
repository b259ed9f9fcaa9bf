"""Class names of a data set, from classes.txt beside its shards."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.printable import printable
from mae.storage.remote import is_remote

FILE = "classes.txt"
"""file beside the shards with one class name a line; `mae pack` writes it"""


def class_names(shards: Sequence[str], num_classes: int, run: Path | None = None) -> list[str]:
    """One name per class, from the run folder, else beside the first shard, else the numbers.

    A file of another number of names is ignored.  `shards` may be patterns if their folder is not.
    """
    for names in (_lines(run / FILE) if run else [], _names(shards)):
        if len(names) == num_classes:
            return names
    return [str(i) for i in range(num_classes)]


def copy_class_names(shards: Sequence[str], num_classes: int, run: Path) -> None:
    """Copy classes.txt from beside the shards into the run folder, unless that has one.

    Shards may be moved later, and their paths are often relative.  Raises UserError where the copy
    cannot be written.
    """
    names = _names(shards)
    if len(names) == num_classes and not (run / FILE).exists():
        with new_file(run / FILE) as part:
            part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def num_named_classes(shards: Sequence[str]) -> int:
    """Number of names in classes.txt; 0 without that file."""
    return len(_names(shards))


def class_numbers(folder: str) -> dict[str, int]:
    """Class name → number from the classes.txt in `folder`; names that it lists twice have none."""
    names = [printable(name.strip()) for name in _lines(Path(folder, FILE))]
    times = Counter(names)
    return {name: number for number, name in enumerate(names) if name and times[name] == 1}


def check_class_names(shards: Sequence[str], others: Sequence[str], key: str) -> None:
    """Raise UserError where both have a classes.txt and the two differ; `key` names `others`."""
    ours, theirs = _names(shards), _names(others)
    if ours and theirs and ours != theirs:
        raise UserError(f"{key}: its classes.txt names other classes than the training shards'")


def _names(shards: Sequence[str]) -> list[str]:
    if not shards or is_remote(shards[0]):
        return []
    return _lines(Path(shards[0]).parent / FILE)


def _lines(file: Path) -> list[str]:
    try:
        if not file.is_file():  # reading a FIFO would wait forever
            return []
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
