"""Columns that the points of a map are coloured by: classes and numbers."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.redaction import shown
from mae.explore.table import Table, as_floats, as_texts

MOST_CLASSES = 256
"""maximum number of different texts of a column of classes"""
MOST_LABELS = 2**15 - 1
"""maximum number of classes of the labels: codes have 16 bits"""
MOST_COLUMNS = 32
"""maximum number of columns on a page"""
RESERVED = ("key", "x", "y", "label", "class", "duplicate_of")
"""columns that have a use of their own"""
MISSING = -1
"""code of a missing class"""


class Classes(NamedTuple):
    """Class of each image."""

    name: str
    codes: npt.NDArray[np.int16]
    """[n], places in `names`; MISSING where there is none"""
    names: list[str]
    about: str = ""


class Numbers(NamedTuple):
    """Number of each image."""

    name: str
    values: npt.NDArray[np.float32]
    """[n]; NaN where there is none"""
    about: str = ""


class Columns(NamedTuple):
    """Columns of a page."""

    found: list[Classes | Numbers]
    """those of labels first"""
    labels: Classes | None
    notes: list[str]
    """one for each column that is left out, or shown in another way"""


def read_columns(table: Table) -> Columns:
    """Columns of a table in their order, the classes of its labels first."""
    labels, notes = label_classes(table)
    found: list[Classes | Numbers] = [] if labels is None else [labels]
    for name, column in table.flat.items():
        if name in RESERVED:
            continue
        one = _column(shown(name).replace("\n", " "), column)
        if isinstance(one, str):
            notes.append(one)
        elif one is not None and len(found) >= MOST_COLUMNS:
            notes.append(f"column {one.name} is left out: {MOST_COLUMNS} are shown")
        elif one is not None:
            found.append(one)
    return Columns(found, labels, notes)


def label_classes(table: Table) -> tuple[Classes | None, list[str]]:
    """Classes by their names in column `class`, in the order of column `label`; and notes.

    Further numbers with the name of another one are "cat (2)" and so on.  None without labels,
    and for more than MOST_LABELS.
    """
    rows = table.rows
    numbers = table.flat.get("label")
    names = table.flat.get("class")
    labels = [None] * rows if numbers is None else numbers.to_pylist()
    texts = [None] * rows if names is None else as_texts(names)
    labels = [_whole(label) for label in labels]
    pairs = [
        None if text is None and label is None else (label, _text(label if text is None else text))
        for label, text in zip(labels, texts, strict=True)
    ]
    numbers_of: dict[str, list[Any]] = {}
    """different labels of each name"""
    for label, text in dict.fromkeys(pair for pair in pairs if pair is not None):
        known = numbers_of.setdefault(text, [])
        if label is not None:
            known.append(label)
    name = "label" if names is None or names.null_count == rows else "class"
    classes = [(text, label) for text, some in numbers_of.items() for label in some or [None]]
    if not classes:
        return None, []
    if len(classes) > MOST_LABELS:
        return None, [
            f"column {name} is left out: {len(classes):,} classes (a page has {MOST_LABELS:,} at "
            "most)"
        ]
    # Numbers first, in their order; names without one in that of the alphabet.
    classes.sort(key=lambda pair: _rank(pair[1], pair[0]))
    code: dict[tuple[Any, str], int] = {}
    for number, (text, label) in enumerate(classes):
        code[label, text] = number
        code.setdefault((None, text), number)  # a name without a number is of its first one
    codes = [MISSING if pair is None else code[pair] for pair in pairs]
    notes = [
        f"{len(some):,} class numbers have the name {text}: shown with numbers behind it"
        for text, some in numbers_of.items()
        if len(some) > 1
    ]
    if len(notes) > 1:
        notes = [f"{notes[0]}; so are {len(notes) - 1:,} further names"]
    different = _numbered([text for text, _ in classes])
    return Classes(name, np.array(codes, np.int16), different), notes


def _numbered(names: Sequence[str]) -> list[str]:
    """Different names: the further ones of a name get a number, "cat (2)"."""
    taken, next_ = set(names), dict.fromkeys(names, 1)
    found = []
    for name in names:
        other = name
        while next_[name] > 1 and other in taken:
            other = f"{name} ({next_[name]})"
            next_[name] += 1
        next_[name] = max(next_[name], 2)
        taken.add(other)
        found.append(other)
    return found


def _whole(label: Any) -> Any:
    """Label as written where missing ones made numbers floating-point: 3.0 is 3, NaN none."""
    if not isinstance(label, float):
        return label
    return int(label) if label.is_integer() else None if math.isnan(label) else label


def _rank(label: Any, text: str) -> tuple[bool, float, str]:
    is_number = isinstance(label, int | float)
    return not is_number, float(label) if is_number else 0.0, text


def _text(value: Any) -> str:
    return shown(str(value)).replace("\n", " ")


def _column(name: str, column: Any) -> Classes | Numbers | str | None:
    """Column of a page; None for one without content, a note for one that is left out."""
    if column.null_count == len(column):
        return None
    kind = str(column.type)
    if "string" in kind or kind == "bool":
        return _classes(name, as_texts(column))
    try:
        values = as_floats(column)
    except ValueError:
        return f"column {name} is left out: it holds neither numbers nor texts"
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    small[~np.isfinite(small)] = np.nan
    return Numbers(name, small) if np.isfinite(small).any() else None


def _classes(name: str, texts: Sequence[str | None]) -> Classes | str | None:
    if name == "shard":
        texts = [None if text is None else text.rpartition("/")[2] for text in texts]
    counts = Counter(text for text in texts if text is not None)
    if name == "shard" and len(counts) == len(texts) > 1:
        return None  # image files, each a shard of its own
    if len(counts) > MOST_CLASSES:
        return (
            f"column {name} is left out: {len(counts):,} different texts "
            f"(a colour needs {MOST_CLASSES} or fewer)"
        )
    if name == "shard" and len(counts) == 1:
        return None
    ordered = sorted(counts)
    code = {text: number for number, text in enumerate(ordered)}
    codes = [MISSING if text is None else code[text] for text in texts]
    return Classes(name, np.array(codes, np.int16), [_text(text) for text in ordered])
