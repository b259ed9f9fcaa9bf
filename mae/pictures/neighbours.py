"""Nearest neighbours of images in the features of an encoder."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mae.evaluation.features import Matrix
from mae.evaluation.knn import directions
from mae.pictures.drawing import displayable, to_pil
from mae.pictures.sheet import Cell, Sheet

WORDS = {"mean": "the mean patch token", "cls": "the class token"}
"""names of pooled features, for people"""


class Neighbours(NamedTuple):
    """The nearest rows of each query, nearest first."""

    rows: npt.NDArray[np.int64]
    """[m k]"""
    cosine: Matrix
    """[m k] similarity, -1 to 1"""


def nearest(queries: Matrix, among: Matrix, k: int) -> Neighbours:
    """The `k` rows of `among` [n d] of largest cosine to each query [m d]; all where it has fewer.

    Of rows equally near the earlier ones come first.
    """
    cosine = directions(queries) @ directions(among).T
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return Neighbours(rows, np.take_along_axis(cosine, rows, axis=1))


def neighbours_sheet(
    queries: Tensor,
    names: Sequence[str],
    found: Neighbours,
    pictures: Sequence[Tensor],
    captions: Sequence[Sequence[str]],
    searched: int,
    title: str,
    feature: str = "mean",
) -> Sheet:
    """A row for each query: itself, and its neighbours with their similarity.

    `pictures` are the neighbours of each query, integers [k c h w]; `captions` name them;
    `feature` is what they are near in.
    """
    shown = displayable(queries).cpu()
    rows = []
    for picture, name, near, said, cosine in zip(
        shown, names, pictures, captions, found.cosine, strict=True
    ):
        cells = [
            Cell(to_pil(one), f"{similarity:.3f}\n{words}")
            for one, words, similarity in zip(displayable(near), said, cosine, strict=True)
        ]
        rows.append([Cell(to_pil(picture), name), *cells])
    notes = [
        f"The nearest of {searched:,} images, by cosine similarity of "
        f"{WORDS.get(feature, f'the feature `{feature}`')} (below each, with key and class). A "
        "query that is among them finds itself first.",
        "Raw cosines often all lie close together: their order tells more than their size, and "
        "neighbours are a smoke signal, not a verdict.",
    ]
    heads = ["query", *(f"{place + 1}." for place in range(found.rows.shape[1]))]
    return Sheet(title, heads, rows, notes)
