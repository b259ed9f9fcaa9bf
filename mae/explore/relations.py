"""Relations of images that a table may hold: nearest neighbours and copies."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mae.explore.structure import NEIGHBOURS, Neighbours
from mae.explore.table import Table, as_floats, stream

NONE = -1
"""row that is not there"""


def read_neighbours(table: Table) -> Neighbours | None:
    """Column `neighbours`, the NEIGHBOURS nearest of each row; None where there is none.

    Rows that are not in the table, and a row itself, are no neighbours.  Distances may be missing.
    """
    if "neighbours" not in table.nested:
        return None
    parts, start = [], 0
    for column in stream(table, "neighbours"):
        try:
            ids = _padded(column.field("ids"))
            distances = _padded(column.field("distances"))
        except (AttributeError, KeyError, ValueError):  # no struct, other fields, other values
            return None
        parts.append(_valid(ids, distances, start, table.rows))
        start += len(column)
    ids, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not (ids >= 0).any():
        return None
    return Neighbours(ids, distances)


def no_neighbours(rows: int) -> Neighbours:
    """No neighbours of so many images."""
    return Neighbours(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))


def _padded(lists: Any) -> npt.NDArray[np.float64]:
    """First NEIGHBOURS numbers of each list [n NEIGHBOURS]; NaN where there are fewer."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = np.append(as_floats(lists.flatten()), np.nan)
    places = np.cumsum(lengths)[:, None] - lengths[:, None] + np.arange(NEIGHBOURS)
    is_there = np.arange(NEIGHBOURS) < lengths[:, None]
    return values[np.where(is_there, places, len(values) - 1)]


def _valid(
    ids: npt.NDArray[np.float64], distances: npt.NDArray[np.float64], start: int, rows: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    own = start + np.arange(len(ids))[:, None]
    is_valid = (ids >= 0) & (ids < rows) & (ids == np.floor(ids)) & (ids != own)
    whole = np.where(is_valid, ids, NONE).astype(np.int64)
    return whole, np.where(is_valid, distances, np.nan).astype(np.float32)


def read_copies(table: Table) -> npt.NDArray[np.int64] | None:
    """Column `duplicate_of`: smallest row of the same group, NONE for it and images without.

    None where there is no such column.
    """
    column = table.flat.get("duplicate_of")
    if column is None:
        return None
    try:
        values = as_floats(column)
    except ValueError:
        return None
    rows = np.arange(table.rows)
    is_valid = (values >= 0) & (values < table.rows) & (values == np.floor(values))
    other = np.where(is_valid, values, rows).astype(np.int64)
    # Copies of copies, and rows that name each other, are of one group.
    links = coo_array((np.ones(table.rows, bool), (rows, other)), shape=(table.rows,) * 2)
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    return np.where(first[group] == rows, NONE, first[group])
