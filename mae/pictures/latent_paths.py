"""Pictures along paths between the latents of two images."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mae.networks.patches import unit_values
from mae.pictures.drawing import displayable_alone, to_pil
from mae.pictures.sheet import Cell, Sheet


class PathPictures(NamedTuple):
    """A path and its ends."""

    names: tuple[str, str]
    """of the two images"""
    ends: Tensor
    """integers [2 c h w]"""
    steps: Tensor
    """decoded latents [k c h w] in [0, 1], the ends first and last"""
    psnr: tuple[float, float]
    """of the decoded ends, in dB"""


def paths_sheet(
    paths: Sequence[PathPictures], shares: Sequence[float], title: str, notes: Sequence[str]
) -> Sheet:
    """Sheet with a row per path: the first image, the decoded path, the second image."""
    rows = []
    for path in paths:
        first, second = unit_values(path.ends).split(1)
        whole = torch.cat([first, path.steps, second])
        shown = displayable_alone(whole, path.ends)
        between = [f"{share:.2f}" for share in shares[1:-1]]
        ends = [f"{value:.1f} dB" for value in path.psnr]
        captions = [path.names[0], ends[0], *between, ends[1], path.names[1]]
        rows.append([Cell(to_pil(one), word) for one, word in zip(shown, captions, strict=True)])
    heads = ["first", "decoded", *[""] * (len(shares) - 2), "decoded", "second"]
    return Sheet(title, heads, rows, notes)
