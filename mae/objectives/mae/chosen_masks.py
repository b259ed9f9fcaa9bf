"""Masks that a person chooses: how many patches are hidden, and in which pattern."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import uniforms
from mae.decoding.pillow import BadImage, open_image
from mae.objectives.mae.masking import PatchSplit, num_visible, random_masking
from mae.objectives.mae.model import MaskedAutoencoder

PATTERNS = ("random", "block", "grid")

BLOCKS = 3
"""rectangles of a block-wise mask"""

STRETCH = 2.0
"""their sides differ up to so many times from the image's proportions"""


class ChosenMask(NamedTuple):
    """A way to hide patches."""

    pattern: str
    """one of PATTERNS, or the file of a drawn mask"""
    hidden: float
    """share of the patches, 0 to 1"""
    draw: Callable[[Tensor, Tensor], PatchSplit]
    """(images [b c h w], seeds [b]) → which patches of each"""


def choose_masks(
    pattern: str, ratios: Sequence[float], model: MaskedAutoencoder
) -> list[ChosenMask]:
    """One mask for each of `ratios`; for the model's own ratio where there are none.

    Raises UserError for an unknown pattern, one whose ratio cannot be chosen, a mask that leaves
    no patch visible or none hidden, and a file that is no picture.
    """
    grid = grid_of(model)
    if pattern in ("random", "block"):
        hide = _random if pattern == "random" else block_masking
        return [
            _counted(pattern, lambda images, seeds, ratio=ratio: hide(seeds, grid, ratio), grid)
            for ratio in ratios or [model.mask_ratio]
        ]
    if pattern != "grid" and Path(pattern).suffix.lower() != ".png":
        raise UserError(f"--mask: {pattern} is none of {', '.join(PATTERNS)}, and no .png")
    if ratios:
        raise UserError(f"--mask-ratio: what {pattern} hides is fixed; leave it out")
    is_hidden = every_second(grid) if pattern == "grid" else drawn_mask(Path(pattern), grid)
    return [_counted(pattern, _same_for_all(is_hidden), grid)]


def grid_of(model: MaskedAutoencoder) -> tuple[int, int]:
    """Rows and columns of patches."""
    (h, w), (p, q) = model.img_size, model.patch_size
    return h // p, w // q


def block_masking(seeds: Tensor, grid: tuple[int, int], ratio: float) -> PatchSplit:
    """Large blocks (paper, figure 6): rectangles of random centre and shape that grow together.

    Exactly as many as random masking hides.  A pure function of each seed.
    """
    draws = uniforms(seeds.cpu().numpy().view(np.uint64), 3 * BLOCKS)
    chance = torch.from_numpy(draws).view(-1, BLOCKS, 3, 1, 1)
    rows, columns = grid
    down = (torch.arange(rows, dtype=torch.float64) + 0.5).view(-1, 1) / rows
    across = (torch.arange(columns, dtype=torch.float64) + 0.5).view(1, -1) / columns
    slant = torch.exp((2 * chance[:, :, 2] - 1) * math.log(STRETCH) / 2)
    # How far a rectangle has to grow to reach a patch; the patches reached first are hidden.
    reach = torch.maximum(
        (down - chance[:, :, 0]).abs() * slant, (across - chance[:, :, 1]).abs() / slant
    )
    order = reach.amin(dim=1).flatten(1).argsort(dim=1, stable=True).to(seeds.device)
    hidden = rows * columns - num_visible(rows * columns, ratio)
    return PatchSplit(order[:, hidden:], order[:, :hidden])


def every_second(grid: tuple[int, int]) -> Tensor:
    """One of every two by two patches stays visible (paper, figure 6, "grid"); bool [n]."""
    visible = torch.zeros(grid, dtype=torch.bool)
    visible[::2, ::2] = True
    return ~visible.flatten()


def drawn_mask(path: Path, grid: tuple[int, int]) -> Tensor:
    """Hidden where a picture, stretched over the image, is mostly white; bool [n].

    Raises UserError where it cannot be read.
    """
    try:
        with open_image(path) as image:
            white = image.convert("L").resize((grid[1], grid[0]), Image.Resampling.BOX)
    except BadImage as error:
        raise UserError(f"--mask: {path}: {error}") from None
    return torch.from_numpy(np.array(white)).flatten() > 127


def _random(seeds: Tensor, grid: tuple[int, int], ratio: float) -> PatchSplit:
    return random_masking(seeds, grid[0] * grid[1], ratio)


def _same_for_all(is_hidden: Tensor) -> Callable[[Tensor, Tensor], PatchSplit]:
    keep, masked = (~is_hidden).nonzero().flatten(), is_hidden.nonzero().flatten()

    def draw(images: Tensor, seeds: Tensor) -> PatchSplit:
        ids = (part.to(images.device).expand(len(images), -1) for part in (keep, masked))
        return PatchSplit(*ids)

    return draw


def _counted(
    pattern: str, draw: Callable[[Tensor, Tensor], PatchSplit], grid: tuple[int, int]
) -> ChosenMask:
    total = grid[0] * grid[1]
    hidden = draw(torch.zeros(1), torch.zeros(1, dtype=torch.int64)).ids_masked.shape[1]
    if not 0 < hidden < total:
        raise UserError(
            f"--mask, --mask-ratio: hides {hidden} of {total} patches; "
            "at least one must be visible and one hidden"
        )
    return ChosenMask(pattern, hidden / total, draw)
