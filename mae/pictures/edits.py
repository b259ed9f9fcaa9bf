"""Pictures of edited images: original, decoded, edited at several strengths."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mae.pictures.drawing import displayable, to_pil
from mae.pictures.sheet import Cell, Sheet


class Edited(NamedTuple):
    """Images at one strength, or as they were."""

    head: str
    images: Tensor
    """[b c h w] in [0, 1]"""
    captions: Sequence[str]


def edits_sheet(
    originals: Tensor, columns: Sequence[Edited], title: str, notes: Sequence[str]
) -> Sheet:
    """Sheet with a row per image; integer `originals` [b c h w] give the contrast of 16 bits."""
    shown = [displayable(originals, column.images).cpu() for column in columns]
    rows = [
        [
            Cell(to_pil(pictures[number]), column.captions[number])
            for column, pictures in zip(columns, shown, strict=True)
        ]
        for number in range(len(originals))
    ]
    return Sheet(title, [column.head for column in columns], rows, notes)
