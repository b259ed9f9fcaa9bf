"""Content of a page: what the table has, completed by what follows from it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.printable import printable
from mae.base.progress import ProgressLine
from mae.base.redaction import shown
from mae.explore.columns import Classes, Numbers, read_columns
from mae.explore.origin import read_origin
from mae.explore.relations import no_neighbours, read_copies, read_neighbours
from mae.explore.scores import read_scores
from mae.explore.structure import (
    Neighbours,
    directions,
    distances_of,
    k_means,
    nearest_neighbours,
    trust,
)
from mae.explore.table import Floats, Table, read_vectors
from mae.explore.thumbnails import (
    Thumbnails,
    draw_sheets,
    read_thumbnails,
    require_room,
    sheet_order,
    usual_side,
)

CLUSTERS = 12
"""number of clusters of images without labels"""
MOST_CLUSTERS = 40
"""maximum number of clusters that follows from the number of classes"""
NONE = -1
"""cell that is not there"""
OUTLIER = "outlier"


class Options(NamedTuple):
    """Choices of a person; None: what suits the table."""

    title: str | None = None
    clusters: int | None = None
    """number of clusters; 0: none"""
    side: int | None = None
    """longest side of the thumbnails in pixels"""
    scores: Path | None = None
    """file of `mae anomaly score`"""


class Content(NamedTuple):
    """Content of a page."""

    about: dict[str, Any]
    """JSON object: texts, and what the arrays are"""
    arrays: dict[str, npt.NDArray]
    """arrays by name"""
    sheets: Iterator[bytes]
    """JPEG files, drawn one by one"""
    notes: list[str]
    """what was left out, for a person"""


def read_content(table: Table, options: Options = Options()) -> Content:  # noqa: B008
    """Read the columns of a table and compute what it lacks; progress is on stderr.

    Raises UserError for damaged columns, for scores of other images, and for thumbnails of a side
    that memory has no room for.
    """
    scores = None if options.scores is None else read_scores(options.scores, table)
    side = options.side or usual_side(table.rows)
    require_room(table, side)
    vectors = read_vectors(table)
    unit = None if vectors is None else directions(vectors)
    near, source = _neighbours(table, unit)
    columns, notes = _columns(table, unit, near, options.clusters)
    if scores is not None:
        columns.append(scores[0])
        notes += scores[1]
    copies = read_copies(table)
    origin = read_origin(table.metadata)
    measured = origin.trust
    if measured is None and unit is not None:
        measured = trust(unit, table.places, ProgressLine("comparing map and vectors", "images"))
    pictures = read_thumbnails(table, side, ProgressLine("reading", "thumbnails"))
    notes += _about_pictures(table, pictures)
    order = sheet_order(table.places)
    order = order[pictures.sizes[order, 0] > 0]
    arrays = {
        "places": table.places,
        "cells": _cells(order, table.rows),
        "sizes": pictures.sizes,
        "neighbours": near.ids.astype(np.int32),
        "distances": near.distances,
        **({} if copies is None else {"copies": copies.astype(np.int32)}),
        **{f"column-{i}": _values(column) for i, column in enumerate(columns)},
    }
    about = {
        "title": printable(shown(options.title or table.file.stem)),
        "file": printable(shown(table.file.name)),
        "keys": table.keys,
        "columns": [_about_column(column) for column in columns],
        "neighbours": {"count": near.ids.shape[1], "source": source},
        "outlier": _place_of_outliers(columns),
        "sheet": {"cell": pictures.cell, "across": pictures.across},
        "trust": None if measured is None else measured._asdict(),
        "vectors": origin.vectors,
        "projection": origin.projection,
        "notes": notes,
    }
    return Content(about, arrays, draw_sheets(pictures, order), notes)


def _neighbours(table: Table, unit: Floats | None) -> tuple[Neighbours, str]:
    """Neighbours of each image, and where they are from."""
    if (found := read_neighbours(table)) is not None:
        source = f"column neighbours of {shown(table.file.name)}"
        if unit is None or np.isfinite(found.distances).any():
            return found, source
        distances = distances_of(unit, found.ids)
        return Neighbours(found.ids, distances), f"{source}, with cosine distances of the vectors"
    if unit is None or table.rows < 2:
        return no_neighbours(table.rows), ""
    progress = ProgressLine("searching neighbours", "images")
    return nearest_neighbours(unit, progress), "cosine distance of the vectors"


def _columns(
    table: Table, unit: Floats | None, near: Neighbours, count: int | None
) -> tuple[list[Classes | Numbers], list[str]]:
    """Columns of the page in their order: labels, clusters, the others; and notes."""
    columns, labels, notes = read_columns(table)
    has_outliers = OUTLIER in [one.name for one in columns]
    if not has_outliers and (outliers := _outliers(near)) is not None:
        columns.append(outliers)
    clusters = _clusters(table, unit, labels, count)
    if clusters is not None:
        columns.insert(0 if labels is None else 1, clusters)
    return columns, notes


def _place_of_outliers(columns: list[Classes | Numbers]) -> int | None:
    return next(
        (i for i, one in enumerate(columns) if one.name == OUTLIER and isinstance(one, Numbers)),
        None,
    )


def _outliers(near: Neighbours) -> Numbers | None:
    """Mean of the known distances of each image; None where none is known."""
    is_known = (near.ids >= 0) & np.isfinite(near.distances)
    if not is_known.any():
        return None
    count = is_known.sum(axis=1)
    total = np.where(is_known, near.distances, 0).sum(axis=1, dtype=np.float64)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Numbers(OUTLIER, mean.astype(np.float32), "mean distance to the neighbours")


def _clusters(
    table: Table, unit: Floats | None, labels: Classes | None, count: int | None
) -> Classes | None:
    """Clusters of the vectors, or of the places on the map; named by their commonest class."""
    if count is None:
        classes = len(labels.names) if labels is not None else 0
        count = classes if 2 <= classes <= MOST_CLUSTERS else CLUSTERS
    if count < 2 or table.rows < 2:
        return None
    codes = k_means(table.places if unit is None else unit, count)
    names = [_cluster_name(codes == i, i, labels) for i in range(codes.max() + 1)]
    of = "places on the map" if unit is None else f"vectors of {unit.shape[1]:,} numbers"
    about = f"{len(names)} clusters of the {of}, by k-means on mini-batches (scikit-learn, seed 0)"
    return Classes("cluster", codes.astype(np.int16), names, about)


def _cluster_name(inside: npt.NDArray[np.bool_], number: int, labels: Classes | None) -> str:
    if labels is None:
        return f"{number + 1}"
    codes = labels.codes[inside]
    counts = Counter(codes[codes >= 0].tolist())
    if not counts:
        return f"{number + 1}"
    (code, count) = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return f"{number + 1}: {labels.names[code]} {count / len(codes):.0%}"


def _about_pictures(table: Table, pictures: Thumbnails) -> list[str]:
    notes = []
    if pictures.bad:
        row, reason = pictures.bad[0]
        notes.append(
            f"{len(pictures.bad):,} of {table.rows:,} thumbnails cannot be shown, first "
            f"{table.keys[row]}: {reason}"
        )
    if not pictures.sizes.any():
        notes.append("no thumbnails: no image in column image")
    return notes


def _cells(order: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int32]:
    """Number of the cell of each row; NONE without a thumbnail."""
    cells = np.full(rows, NONE, np.int32)
    cells[order] = np.arange(len(order))
    return cells


def _values(column: Classes | Numbers) -> npt.NDArray:
    return column.codes if isinstance(column, Classes) else column.values


def _about_column(column: Classes | Numbers) -> dict[str, Any]:
    names = column.names if isinstance(column, Classes) else None
    return {"name": column.name, "names": names, "about": column.about}
