"""Generated images beside their nearest training images."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mae.pictures.drawing import displayable, to_pil
from mae.pictures.sheet import Cell, Sheet

SHOWN = 12
"""maximum number of rows"""


class Neighboured(NamedTuple):
    """A generated image and its nearest training images."""

    name: str
    image: Tensor
    """integers [c h w]"""
    near: Sequence[Tensor]
    """integers [c h w], the nearest first"""
    captions: Sequence[str]
    """of these"""


def nearest_training_sheet(rows: Sequence[Neighboured], title: str, notes: Sequence[str]) -> Sheet:
    """Sheet with a row per generated image."""
    cells = []
    for row in rows:
        shown = [displayable(one[None])[0] for one in (row.image, *row.near)]
        words = [row.name, *row.captions]
        cells.append([Cell(to_pil(one), word) for one, word in zip(shown, words, strict=True)])
    places = ["nearest", *(f"{number}." for number in range(2, len(cells[0])))]
    return Sheet(title, ["generated", *places], cells, notes)
