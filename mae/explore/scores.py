"""Scores of `mae anomaly score` for the images of a table."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.base.printable import printable
from mae.explore.columns import Numbers
from mae.explore.finite import finite
from mae.explore.table import Table, as_texts

SEPARATOR = ": key "
"""between shard and key in the name of an image"""
NAME = "anomaly score"
SEVERAL = math.inf
"""score of a name that is of several images or shards"""


class Name(NamedTuple):
    """Name of an image; without a key: the path of an image file, or a key alone."""

    shard: str
    """address of the shard, or path of the image file; empty: not known"""
    key: str | None

    @property
    def base(self) -> "Name":
        """The name without the folders of its shard."""
        return Name(self.shard.rpartition("/")[2], self.key)


Scores = Mapping[Name, float]


class Matched(NamedTuple):
    """Scores of the images of a table."""

    values: npt.NDArray[np.float32]
    """[n]; NaN where there is none"""
    by_base: int
    """number of images found by the base name of their shard or file"""
    ambiguous: int
    """number of images whose score is not known for sure, and left out"""


def read_scores(file: Path, table: Table) -> tuple[Numbers, list[str]]:
    """Score of each image, found by the address of its shard and its key; and notes on it.

    Where no shard has this address, the base name of the shard does if it is that of one shard in
    both files, and the key alone where one of the files names no shards and the key is of one
    image in both.  Raises UserError where the file holds no scores, or none of these images.
    """
    rows = read_json(file).get("images")
    pairs = [_pair(row) for row in rows] if isinstance(rows, list) else []
    scores = dict(pair for pair in pairs if pair is not None)
    if not scores:
        raise UserError(f"{file}: holds no scores: mae anomaly score DETECTOR IMAGES writes them")
    values, by_base, ambiguous = _matched(scores, _names(table))
    found = int(np.isfinite(values).sum())
    if not found and ambiguous:
        raise UserError(
            f"{file}: its scores fit {ambiguous:,} of the {table.rows:,} images of {table.file} by "
            "base names of shards or keys that several have: score the same paths as are embedded"
        )
    if not found:
        raise UserError(f"{file}: has scores of other images than {table.file}")
    notes = []
    if lacking := table.rows - found - ambiguous:
        notes.append(f"{lacking:,} of {table.rows:,} images have no score in {file}")
    if ambiguous:
        notes.append(
            f"{ambiguous:,} of {table.rows:,} images get no score: {file} knows their shards or "
            "files by another path, and several have this base name or key"
        )
    if by_base:
        notes.append(
            f"the scores of {by_base:,} of {table.rows:,} images are of shards or files of the "
            f"same base name in another folder: check that {file} is of these images"
        )
    return Numbers(NAME, values, "of mae anomaly score"), notes


def _matched(scores: Scores, names: Sequence[Name]) -> Matched:
    """Scores of the images of a table."""
    values = np.full(len(names), np.nan, np.float32)
    by_base, by_key = _by_base(scores, names), _by_key(scores, names)
    addresses = {name.shard for name in scores}
    bases = ambiguous = 0
    for row, name in enumerate(names):
        ways = [name]
        if name.shard.endswith(str(name.key)):  # an image file, which its path names
            ways.append(Name(name.shard, None))
        score = next((scores[way] for way in ways if way in scores), None)
        if score is None and name.shard not in addresses:
            score = next((by_base[way.base] for way in ways if way.base in by_base), None)
            bases += score is not None and score is not SEVERAL
            if score is None and (not name.shard or Name(str(name.key), None) in scores):
                score = by_key.get(name.key)
        if score is SEVERAL:
            ambiguous += 1
        elif score is not None:
            values[row] = score
    return Matched(values, bases, ambiguous)


def _by_base(scores: Scores, names: Sequence[Name]) -> dict[Name, float]:
    """Scores by names without folders, of shards that the table does not have."""
    several = _several(scores) | _several(names)
    addresses = {name.shard for name in names}
    return {
        name.base: SEVERAL if name.base.shard in several else score
        for name, score in scores.items()
        if name.shard not in addresses
    }


def _by_key(scores: Scores, names: Sequence[Name]) -> dict[str | None, float]:
    """Scores by the key alone; a name without a key may be one."""
    keys = [name.shard if name.key is None else name.key for name in scores]
    known, here = Counter(keys), Counter(name.key for name in names)
    return {
        key: score if known[key] == here[key] == 1 else SEVERAL
        for key, score in zip(keys, scores.values(), strict=True)
    }


def _several(names: Iterable[Name]) -> set[str]:
    """Base names that shards of several addresses have."""
    addresses = {name.shard for name in names}
    bases = Counter(address.rpartition("/")[2] for address in addresses)
    return {base for base, count in bases.items() if count > 1}


def _pair(row: Any) -> tuple[Name, float] | None:
    """Name and score of one image."""
    if not isinstance(row, dict):
        return None
    name, score = row.get("image"), finite(row.get("score"))
    if not isinstance(name, str) or score is None:
        return None
    shard, separator, key = name.partition(SEPARATOR)
    return Name(printable(shard), printable(key) if separator else None), score


def _names(table: Table) -> list[Name]:
    column = table.flat.get("shard")
    texts = [None] * table.rows if column is None else as_texts(column)
    return [
        Name("" if text is None else printable(text), key)
        for text, key in zip(texts, table.keys, strict=True)
    ]
