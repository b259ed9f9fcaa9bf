"""Differences between a folder of images and a copy of it, by the list of files in the copy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mae.base.files import new_file
from mae.base.printable import printable
from mae.data.class_names import ENCODING, escaped
from mae.pack.listing import Listing

FILES = "files.tsv"
"""name of the list in a copy: size, modification time and name of each file"""
SHOWN = 3
"""number of changed files that a message names"""


class FolderChanges(NamedTuple):
    """Difference between a folder and a copy of it, as names of files."""

    added: Sequence[str]
    removed: Sequence[str]
    resized: Sequence[str]
    """of another size"""
    touched: Sequence[str]
    """of the same size, but written since"""

    def __str__(self) -> str:
        parts = (
            (self.added, "added"),
            (self.removed, "removed"),
            ([*self.resized, *self.touched], "changed"),
        )
        words = [
            f"{len(names):,} {'file' if len(names) == 1 else 'files'} {what} "
            f"({', '.join(map(printable, names[:SHOWN]))}{' …' if len(names) > SHOWN else ''})"
            for names, what in parts
            if names
        ]
        return ", ".join(words) or "other options"


def write_files(listing: Listing, copy: Path) -> None:
    """Write the list of a folder's files into `copy`."""
    with new_file(copy / FILES) as part:
        rows = (f"{size}\t{written}\t{name}\n" for size, written, name in _files(listing))
        part.write_text("".join(rows), *ENCODING, newline="\n")


def changes_since(copy: Path, listing: Listing) -> FolderChanges | None:
    """Changes of a listed folder since `copy` was made; None where that is gone."""
    before: dict[str, tuple[int, int]] = {}
    try:
        for row in (copy / FILES).read_text(*ENCODING).split("\n")[:-1]:
            size, written, name = row.split("\t")
            before[name] = (int(size), int(written))
    except (OSError, ValueError):
        return None
    now = {name: (size, written) for size, written, name in _files(listing)}
    both = [name for name in now if name in before and now[name] != before[name]]
    return FolderChanges(
        added=[name for name in now if name not in before],
        removed=[name for name in before if name not in now],
        resized=[name for name in both if now[name][0] != before[name][0]],
        touched=[name for name in both if now[name][0] == before[name][0]],
    )


def _files(listing: Listing) -> Iterator[tuple[int, int, str]]:
    """(size, modification time, name) of each image."""
    assert listing.times is not None
    for number, (size, written) in enumerate(
        zip(listing.sizes.tolist(), listing.times.tolist(), strict=True)
    ):
        yield size, written, escaped(listing.name_of(number))
