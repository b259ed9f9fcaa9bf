"""Exact nearest neighbours by cosine similarity, in blocks of bounded memory."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.evaluation.features import Halves, Matrix

QUERIES, AMONG = 1024, 8192
"""rows of a block of similarities, and its columns: 32 MB"""
SPARE = 8
"""further candidates whose similarity is computed in double precision"""
VALUES = 2**22
"""values in double precision held at a time"""


class Neighbours(NamedTuple):
    """Nearest rows of each query, nearest first."""

    rows: npt.NDArray[np.int64]
    """[m k]"""
    cosine: Matrix
    """[m k] similarity, -1 to 1"""


def nearest(
    queries: Matrix | Halves,
    among: Matrix | Halves,
    k: int,
    *,
    own: npt.NDArray[np.int64] | None = None,
    earlier: bool = False,
    centre: npt.NDArray[np.float64] | None = None,
    device: torch.device | str = "cpu",
) -> Neighbours:
    """Rows of `among` [n d] with the `k` largest cosines to each query [m d]; all if fewer.

    `own`: row of each query in `among`, which is no neighbour of its own.  `earlier`: only rows
    before the own one are neighbours; where they are fewer than `k`, other rows with the cosine
    -inf fill the places.  `centre` [d] is subtracted from all vectors.  Ties: earlier rows come
    first.  Rows of zeros have the cosine 0 to all.  Candidates are found in single precision and
    ordered by their similarity in double precision, so results do not depend on the division into
    blocks; `among` may be mapped from a file.
    """
    most = len(among) - (own is not None and not earlier)
    k, wanted = min(k, most), min(k + SPARE, most)
    lengths = _lengths(among, centre)
    rows, cosine = [np.empty((0, k), np.int64)], [np.empty((0, k), np.float32)]
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        excluded = None if own is None else own[start : start + QUERIES]
        found = _candidates(block, among, wanted, excluded, earlier, centre, device)
        step = max(1, VALUES // max(1, wanted * queries.shape[1]))
        for at in range(0, len(block), step):
            limit = excluded[at : at + step] if earlier and excluded is not None else None
            part, near = block[at : at + step], found[at : at + step]
            one = _ordered(part, among, near, lengths, k, limit, centre)
            rows.append(one.rows)
            cosine.append(one.cosine)
    return Neighbours(np.concatenate(rows), np.concatenate(cosine))


def centre_of(vectors: Matrix | Halves) -> npt.NDArray[np.float64]:
    """Mean [d] of the vectors [n d], by which similarities are centred.

    What all images have in common, most of the vector in features of a masked autoencoder, makes
    all their cosines almost 1; less the mean they are about 0 for images that have nothing more in
    common than any two.  A single vector has no centre: 0.
    """
    if len(vectors) < 2:
        return np.zeros(vectors.shape[1])
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(vectors), AMONG):
        total += np.asarray(vectors[start : start + AMONG], np.float64).sum(axis=0)
    return total / len(vectors)


def _candidates(
    queries: Matrix | Halves,
    among: Matrix | Halves,
    count: int,
    own: npt.NDArray[np.int64] | None,
    earlier: bool,
    centre: npt.NDArray[np.float64] | None,
    device: torch.device | str,
) -> npt.NDArray[np.int64]:
    """Rows [m count] with the largest similarities in single precision, in no order."""
    wanted = _directions(queries, centre, device)
    last = int(own.max()) if earlier and own is not None else len(among)
    best: Tensor | None = None
    rows: Tensor | None = None
    for start in range(0, len(among), AMONG):
        if start > last and best is not None and best.shape[1] == count:
            break  # later rows are no neighbours
        similar = wanted @ _directions(among[start : start + AMONG], centre, device).T
        if earlier and own is not None:
            columns = torch.arange(start, start + similar.shape[1], device=device)
            limits = torch.from_numpy(own).to(device)
            similar.masked_fill_(columns >= limits[:, None], -torch.inf)
        elif own is not None:
            inside = np.flatnonzero((own >= start) & (own < start + similar.shape[1]))
            columns = torch.from_numpy(own[inside] - start).to(device)
            similar[torch.from_numpy(inside).to(device), columns] = -torch.inf
        values, places = similar.topk(min(count, similar.shape[1]), dim=1)
        places = places + start
        if best is not None and rows is not None:
            values, places = torch.cat([best, values], 1), torch.cat([rows, places], 1)
            values, chosen = values.topk(min(count, values.shape[1]), dim=1)
            places = places.gather(1, chosen)
        best, rows = values, places
    assert rows is not None
    return rows.cpu().numpy()


def _directions(
    vectors: Matrix | Halves, centre: npt.NDArray[np.float64] | None, device: torch.device | str
) -> Tensor:
    values = np.array(vectors, np.float32)
    if centre is not None:
        values -= centre.astype(np.float32)
    rows = torch.from_numpy(values).to(device)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _doubles(
    vectors: Matrix | Halves, centre: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    values = np.asarray(vectors, np.float64)
    return values if centre is None else values - centre


def _lengths(
    vectors: Matrix | Halves, centre: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    lengths = [np.empty(0)]
    for start in range(0, len(vectors), AMONG):
        block = _doubles(vectors[start : start + AMONG], centre)
        lengths.append(np.sqrt(np.einsum("nd,nd->n", block, block)))
    return np.maximum(np.concatenate(lengths), np.finfo(np.float32).tiny)


def _ordered(
    queries: Matrix | Halves,
    among: Matrix | Halves,
    candidates: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.float64],
    k: int,
    limit: npt.NDArray[np.int64] | None,
    centre: npt.NDArray[np.float64] | None,
) -> Neighbours:
    """The `k` nearest of each row of `candidates`, by similarities in double precision.

    Rows from `limit` [m] on have the cosine -inf.
    """
    candidates = np.sort(candidates, axis=1)
    one = _doubles(queries, centre)
    own = np.maximum(np.sqrt(np.einsum("md,md->m", one, one)), np.finfo(np.float32).tiny)
    near = _doubles(among[candidates], centre)
    cosine = np.einsum("md,mkd->mk", one, near) / (own[:, None] * lengths[candidates])
    cosine = cosine.clip(-1, 1)
    if limit is not None:
        cosine[candidates >= limit[:, None]] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    cosine = np.take_along_axis(cosine, order, axis=1)
    rows = np.take_along_axis(candidates, order, axis=1)
    return Neighbours(rows, cosine.astype(np.float32))
