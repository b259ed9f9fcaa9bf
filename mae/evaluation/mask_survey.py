"""Survey of segmentation masks: the values that the masks of a data set store."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.decoding.mask_files import COLOUR, StoredMask
from mae.evaluation.mask_table import MaskTable, stored_name

NAMED = 6
"""maximum number of values listed in a message"""


class Summary(NamedTuple):
    """Values of one mask."""

    name: str
    kind: str
    top: int
    lossy: bool
    values: npt.NDArray[np.int64]
    """ascending"""
    pixels: npt.NDArray[np.int64]
    """number of each value's pixels"""
    palette: npt.NDArray[np.int64] | None
    """colour of each value"""


def summarise(name: str, mask: StoredMask) -> Summary:
    """Summary of a mask."""
    values, pixels = np.unique(mask.values, return_counts=True)
    values = values.astype(np.int64)
    palette = mask.palette
    if palette is not None:
        palette = palette[np.minimum(values, len(palette) - 1)].astype(np.int64)
    return Summary(
        name=name,
        kind=mask.kind,
        top=mask.top,
        lossy=mask.lossy,
        values=values,
        pixels=pixels,
        palette=palette,
    )


class Group:
    """Masks of one kind and depth: pixels of each stored value."""

    TABLES = ("pixels", "palette")

    def __init__(self, first: Summary) -> None:
        self.name, self.kind, self.top = first.name, first.kind, first.top
        self.pixels: dict[int, int] = {}
        self.most = 0
        """largest number of different values in a mask"""
        self.fullest = first.name
        """mask with that many"""
        self.lossy = ""
        """first lossy mask"""
        self.palette: dict[int, tuple[int, str]] = {}
        """value → its colour, and the first mask that has it"""

    def add(self, mask: Summary) -> None:
        """Add a mask; UserError where its palette gives a value another colour."""
        for value, count in zip(mask.values.tolist(), mask.pixels.tolist(), strict=True):
            self.pixels[value] = self.pixels.get(value, 0) + count
        if len(mask.values) > self.most:
            self.most, self.fullest = len(mask.values), mask.name
        self.lossy = self.lossy or (mask.name if mask.lossy else "")
        if mask.palette is None:
            return
        for value, colour in zip(mask.values.tolist(), mask.palette.tolist(), strict=True):
            self._add_colour(value, colour, mask.name)

    def _add_colour(self, value: int, colour: int, name: str) -> None:
        known, where = self.palette.setdefault(value, (colour, name))
        if known != colour:
            raise UserError(
                f"{name}: palette index {value} is {stored_name(colour, True)}, but "
                f"{stored_name(known, True)} in {where}: indices are no classes then; give the "
                "classes of the colours, --palette FILE with name,r,g,b"
            )

    def record(self) -> dict[str, Any]:
        """All of it, as JSON stores it."""
        return vars(self) | {name: list(getattr(self, name).items()) for name in self.TABLES}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Group":
        """Group that `record` described."""
        group = cls.__new__(cls)
        vars(group).update(record)
        group.pixels = dict(record["pixels"])
        group.palette = {value: (colour, name) for value, (colour, name) in record["palette"]}
        return group

    def merge(self, other: "Group") -> None:
        """Add the masks of `other`, which come after these; UserError as `add`."""
        for value, count in other.pixels.items():
            self.pixels[value] = self.pixels.get(value, 0) + count
        if other.most > self.most:
            self.most, self.fullest = other.most, other.fullest
        self.lossy = self.lossy or other.lossy
        for value, (colour, name) in other.palette.items():
            self._add_colour(value, colour, name)

    def arrays(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Values, ascending, and their numbers of pixels."""
        values = sorted(self.pixels)
        return np.array(values), np.array([self.pixels[value] for value in values])

    def described(self) -> str:
        """Kind and values in words."""
        shown = listed(stored_name(value, self.kind == COLOUR) for value in sorted(self.pixels))
        return f"{self.kind} {shown}" + (" of 16 bits" if self.top == 65_535 else "")


class Survey:
    """Stored values of all masks, by kind and depth."""

    def __init__(self, table: MaskTable | None = None) -> None:
        self.table = table
        self.groups: dict[tuple[str, int], Group] = {}
        self.seen: dict[str, set[tuple[int, int]]] = {}
        """option (--train, --test) → pairs of largest value of the kind, and value"""

    def add(self, key: str, mask: Summary) -> None:
        """Add a mask of the data `key`; UserError for colours without a table, or beyond it."""
        if mask.kind == COLOUR:
            self._check_colours(mask)
        self.groups.setdefault((mask.kind, mask.top), Group(mask)).add(mask)
        self.seen.setdefault(key, set()).update((mask.top, value) for value in mask.values.tolist())

    def record(self) -> dict[str, Any]:
        """All of it but the table, as JSON stores it."""
        seen = {key: sorted(pairs) for key, pairs in self.seen.items()}
        return {"groups": [group.record() for group in self.groups.values()], "seen": seen}

    def add_record(self, record: dict[str, Any]) -> None:
        """Add the masks of a survey that `record` described; UserError as `add`."""
        for group in map(Group.of_record, record["groups"]):
            known = self.groups.setdefault((group.kind, group.top), group)
            if known is not group:
                known.merge(group)
        for key, pairs in record["seen"].items():
            self.seen.setdefault(key, set()).update((top, value) for top, value in pairs)

    def _check_colours(self, mask: Summary) -> None:
        table = self.table if self.table is not None and self.table.of_colours else None
        known = table.classes if table else {}
        if unknown := [value for value in mask.values.tolist() if value not in known]:
            shown = listed(stored_name(value, True) for value in unknown)
            if table:
                raise UserError(f"{mask.name}: colours of the mask are not in --palette: {shown}")
            raise UserError(
                f"{mask.name}: the mask is in colours ({shown}): give their classes, "
                "--palette FILE with name,r,g,b"
            )


def listed(values: Iterable[str]) -> str:
    """First values, and the number of further ones."""
    values = list(values)
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return " ".join(values[:NAMED]) + more
