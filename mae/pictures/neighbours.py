"""Nearest neighbours of images in the features of an encoder."""

from collections.abc import Sequence

from torch import Tensor

from mae.evaluation.nearest import Neighbours
from mae.pictures.drawing import displayable, to_pil
from mae.pictures.sheet import Cell, Sheet

WORDS = {"mean": "the mean patch token", "cls": "the class token"}
"""descriptions of pooled features"""


def neighbours_sheet(
    queries: Tensor,
    names: Sequence[str],
    found: Neighbours,
    pictures: Sequence[Tensor],
    captions: Sequence[Sequence[str]],
    searched: int,
    title: str,
    feature: str = "mean",
    *,
    finds_itself: bool = True,
) -> Sheet:
    """Sheet with a row per query: the query, then its neighbours with their similarity.

    `pictures`: the neighbours of each query, integers [k c h w]; `captions`: their names;
    `searched`: number of images searched; `feature`: name of the feature compared;
    `finds_itself`: queries that are among these images are not left out.
    """
    shown = displayable(queries).cpu()
    rows = []
    for picture, name, near, words, cosine in zip(
        shown, names, pictures, captions, found.cosine, strict=True
    ):
        cells = [
            Cell(to_pil(one), f"{similarity:.3f}\n{caption}")
            for one, caption, similarity in zip(displayable(near), words, cosine, strict=True)
        ]
        rows.append([Cell(to_pil(picture), name), *cells])
    notes = [
        f"The nearest of {searched:,} images, by centred cosine similarity of "
        f"{WORDS.get(feature, f'the feature `{feature}`')} (below each, with key and class)."
        + " A query that is among them finds itself first."
        * finds_itself,
        "Centred: less the mean of the images searched, so that 1 is the same image, and 0 no more "
        "alike than any two. Neighbours are a quick indicator, not a result.",
    ]
    heads = ["query", *(f"{place + 1}." for place in range(found.rows.shape[1]))]
    return Sheet(title, heads, rows, notes)
