"""Retrieval: the images of a data set that are most like a query, exactly or by an index."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.files import new_file, read_json, write_json
from mae.evaluation.nearest import Neighbours, centre_of, nearest
from mae.similarity.features import Vectors
from mae.similarity.quality import sampled

EXACT, APPROXIMATE = "exact", "approximate"
CONNECTIVITY, ADD, SEARCH = 16, 128, 64
"""settings of HNSW (Malkov and Yashunin 2016): M, efConstruction, ef"""
CANDIDATES = 4
"""candidates of the index for each neighbour, which exact similarities then order"""
JUDGED = 200
"""maximum number of images by which the recall of an index is measured"""
JUDGED_K = 10
BLOCK = 4096
RECALL = "recall_of_others_centred"
"""name of the recall in the file beside an index; indexes of earlier versions, of vectors that are
not centred, have another"""

Log = Callable[[str], None]


class Found(NamedTuple):
    """Nearest rows of each query, and how they were found."""

    neighbours: Neighbours
    recall: float | None
    """share of an image's true 10 nearest others that the index finds, measured; None: exact"""


def retrieve(
    queries: npt.NDArray[np.floating],
    among: Vectors,
    k: int,
    *,
    own: npt.NDArray[np.int64] | None = None,
    index: Path | None = None,
    device: str = "cpu",
    log: Log = print,
) -> Found:
    """The `k` nearest rows of `among` of each query [m d], by centred cosine: see `centre_of`.

    `own`: row of each query in `among`, -1 for images that are not; an image does not find itself.
    `index`: file of an approximate index, made where it is missing or of other vectors; None: exact
    search.  Raises UserError without usearch, and where the index cannot be written.
    """
    values, centre = np.asarray(queries, np.float32), centre_of(among.values)
    spared = k + (own is not None)
    if index is None:
        found = nearest(values, among.values, spared, centre=centre, device=device)
        recall = None
    else:
        graph, recall = _open_index(index, among, centre, log)
        found = _searched(graph, values, among, centre, spared)
    return Found(_without_own(found, own, k), recall)


def require_index() -> Any:
    """The module usearch.index; UserError where it is not installed."""
    try:
        return importlib.import_module("usearch.index")
    except ImportError:
        message = "--index approximate: needs usearch: pip install 'maekit[search]'"
        raise UserError(message) from None


def _without_own(found: Neighbours, own: npt.NDArray[np.int64] | None, k: int) -> Neighbours:
    if own is None:
        return found
    kept = found.rows != own[:, None]
    # Where the query is not among them, the last one is left out.
    kept[kept.all(axis=1), -1] = found.rows.shape[1] <= k
    width = min(k, int(kept.sum(axis=1).min()))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    return Neighbours(
        np.take_along_axis(found.rows, order, axis=1),
        np.take_along_axis(found.cosine, order, axis=1),
    )


def _searched(
    graph: Any, queries: npt.NDArray, among: Vectors, centre: npt.NDArray[np.float64], k: int
) -> Neighbours:
    """The nearest of the candidates of an index, with exact similarities."""
    count = min(len(among.values), CANDIDATES * k)
    rows, cosine = [], []
    for query in queries:
        place = (query - centre).astype(np.float32)
        near = np.sort(np.asarray(graph.search(place, count).keys, np.int64))
        one = nearest(query[None], among.values[near], k, centre=centre)
        rows.append(near[one.rows[0]])
        cosine.append(one.cosine[0])
    width = min(map(len, rows))
    return Neighbours(
        np.stack([one[:width] for one in rows]), np.stack([one[:width] for one in cosine])
    )


def _open_index(
    path: Path, among: Vectors, centre: npt.NDArray[np.float64], log: Log
) -> tuple[Any, float]:
    """The index of `among` in `path`, made first where it is not there, and its recall."""
    module = require_index()
    graph = module.Index(
        ndim=among.values.shape[1],
        metric="cos",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=ADD,
        expansion_search=SEARCH,
    )
    known = read_json(path.with_suffix(".json"))
    if path.exists() and known.get("images") == len(among.values) and RECALL in known:
        try:
            graph.load(str(path))
        except Exception:  # usearch raises RuntimeError and others for damaged files
            graph.clear()
        if len(graph) == len(among.values):
            log(f"index of {len(graph):,} images: {path}, made before")
            return graph, float(known[RECALL])
    log(f"index of {len(among.values):,} images: {path}")
    for start in range(0, len(among.values), BLOCK):
        block = np.asarray(among.values[start : start + BLOCK], np.float32)
        block = (block - centre).astype(np.float32)
        graph.add(np.arange(start, start + len(block)), block, threads=1)  # same graph each time
    chosen = sampled(len(among.values), most=JUDGED)
    # An image is always found by itself: its neighbours are others.
    some = np.asarray(among.values[chosen], np.float32)
    true = nearest(some, among.values, JUDGED_K, own=chosen, centre=centre)
    near = _searched(graph, some, among, centre, JUDGED_K + 1)
    near = _without_own(near, chosen, JUDGED_K)
    hits = [len(np.intersect1d(*pair)) for pair in zip(true.rows, near.rows, strict=True)]
    recall = sum(hits) / true.rows.size if true.rows.size else 1.0
    with new_file(path) as part:
        graph.save(str(part))
    write_json(path.with_suffix(".json"), {"images": len(among.values), RECALL: recall})
    return graph, recall
