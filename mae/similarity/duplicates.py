"""Duplicates within a data set, and in another one: by bytes, pixels, hashes, or features."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.evaluation.features import Halves
from mae.evaluation.nearest import nearest
from mae.pack.duplicates import Words, near_duplicates
from mae.similarity.features import Vectors
from mae.similarity.signatures import Signatures

KINDS = ("bytes", "pixels", "hash", "mirrored", "features")
"""kinds of duplicates, from the strictest on; an image counts as the first one that applies"""
DISTANCE = 7
"""maximum distance of the hashes of near duplicates, in bits of 64"""
CORRELATION = 0.93
"""default minimum correlation of the tiny gray pictures of near duplicates.

Chosen on CIFAR-10 and photographs of clothes (docs/EMBEDDINGS.md): above it no pair of different
pictures was seen, while copies at a lower quality or another size correlate to .97 and more.
"""
THRESHOLD = 0.98
"""default minimum similarity of features"""
BLOCK = 8192
"""rows of features held in double precision at a time"""


class Duplicates(NamedTuple):
    """Images that have a duplicate: the earliest one of theirs, or that in another set."""

    image: npt.NDArray[np.int64]
    """[n] rows of the images, ascending"""
    of: npt.NDArray[np.int64]
    """[n] rows of their duplicates"""
    kind: npt.NDArray[np.int64]
    """[n] index into KINDS"""
    similarity: npt.NDArray[np.float64]
    """[n] correlation of the gray pictures of near duplicates, or cosine of features; else 1"""


def find_duplicates(
    own: Signatures,
    other: Signatures | None,
    *,
    correlation: float | None = CORRELATION,
    mirrored: bool = True,
) -> Duplicates:
    """Images of `own` with a duplicate in `other`, or (None) among the earlier ones of `own`.

    Each image has one duplicate: the first with the same bytes, else the first with the same
    pixels, else, as near duplicates, that with the nearest hash within DISTANCE bits whose gray
    picture has at least this `correlation` (None: no near duplicates), else the same of the mirror
    image.
    """
    among, earlier = (own, True) if other is None else (other, False)
    of, kind = np.full(len(own.samples), -1), np.full(len(own.samples), -1)
    similarity = np.ones(len(own.samples))
    pairs = [(own.content, among.content), (own.pixels, among.pixels)]
    for number, (ours, theirs) in enumerate(pairs):
        match = _equal(ours, theirs, earlier)
        new = (match >= 0) & (of < 0)
        of[new], kind[new] = match[new], number
    if correlation is not None:
        ours, theirs = (np.flatnonzero(one.has_hash) for one in (own, among))
        for number, hashes, look in (
            (2, own.hash, own.look),
            (3, own.mirrored, own.look[:, :, ::-1]),
        )[: 1 + mirrored]:
            found = near_duplicates(
                among.hash[theirs],
                hashes[ours],
                DISTANCE,
                earlier=earlier,
                alike=lambda first, second, look=look: (
                    _correlation(among.look[theirs[first]], look[ours[second]]) >= correlation
                ),
            )
            image, match = ours[found.second], theirs[found.first]
            new = of[image] < 0
            image, match = image[new], match[new]
            of[image], kind[image] = match, number
            similarity[image] = _correlation(among.look[match], look[image])
    image = np.flatnonzero(of >= 0)
    return Duplicates(image, of[image], kind[image], similarity[image])


def feature_duplicates(
    own: Vectors, other: Vectors | None, threshold: float = THRESHOLD, device: str = "cpu"
) -> Duplicates:
    """Images whose nearest one by features, in `other` or among earlier images, is similar enough.

    Similarity is the cosine after the mean vector of those compared with is subtracted: without,
    all cosines lie close together.
    """
    among = own if other is None else other
    found = nearest(
        own.values,
        among.values,
        1,
        own=np.arange(len(own.values)) if other is None else None,
        earlier=other is None,
        centre=_mean(among.values),
        device=device,
    )
    image = np.flatnonzero(found.cosine[:, 0] >= threshold)
    kind = np.full(len(image), KINDS.index("features"))
    return Duplicates(image, found.rows[image, 0], kind, found.cosine[image, 0].astype(np.float64))


def merged(first: Duplicates, second: Duplicates) -> Duplicates:
    """Those of `first`, and those of `second` of other images."""
    new = ~np.isin(second.image, first.image)
    columns: list[Any] = [
        np.concatenate([ours, theirs[new]]) for ours, theirs in zip(first, second, strict=True)
    ]
    order = np.argsort(columns[0], kind="stable")
    return Duplicates(*(column[order] for column in columns))


def _mean(values: Halves) -> npt.NDArray[np.float64]:
    """Mean of the rows [n d], which are read in blocks: they may be mapped from a file."""
    total = np.zeros(values.shape[1])
    for start in range(0, len(values), BLOCK):
        total += np.asarray(values[start : start + BLOCK], np.float64).sum(axis=0)
    return total / len(values)


def _correlation(first: npt.NDArray, second: npt.NDArray) -> npt.NDArray[np.float64]:
    """Correlation of each pair of pictures [n h w], of which the mean is subtracted."""
    ours, theirs = first.astype(np.float64), second.astype(np.float64)
    squares = [np.einsum("nhw,nhw->n", one, one) for one in (ours, theirs)]
    products = np.einsum("nhw,nhw->n", ours, theirs)
    return products / np.maximum(np.sqrt(squares[0] * squares[1]), 1e-12)


def _equal(ours: Words, theirs: Words, earlier: bool) -> npt.NDArray[np.int64]:
    """First row of `theirs` [n 2] that equals each row of `ours` [m 2]; -1: none."""
    both = np.concatenate([theirs, ours])
    _, first, inverse = np.unique(both, axis=0, return_index=True, return_inverse=True)
    match = first[inverse.reshape(-1)[len(theirs) :]]
    limit = np.arange(len(ours)) if earlier else len(theirs)
    return np.where(match < limit, match, -1)
