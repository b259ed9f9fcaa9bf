"""Masks of `mae reconstruct`: random, block-wise, grid-wise, or drawn by hand."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import uniforms
from mae.decoding.mask_files import GRAY, read_mask
from mae.decoding.pixels import BadImage
from mae.objectives.mae.masking import PatchSplit, num_visible, random_masking
from mae.objectives.mae.model import MaskedAutoencoder

PATTERNS = ("random", "block", "grid")

BLOCKS = 3
"""number of rectangles of a block-wise mask"""

STRETCH = 2.0
"""maximum aspect ratio of such a rectangle, relative to the image's"""


class ChosenMask(NamedTuple):
    """Mask pattern with its share of hidden patches."""

    pattern: str
    """one of PATTERNS, or the file of a drawn mask"""
    hidden: float
    """share of hidden patches, in (0, 1)"""
    draw: Callable[[Tensor, Tensor], PatchSplit]
    """(images [b c h w], seeds [b]) → visible and hidden patches of each image"""


def choose_masks(
    pattern: str, ratios: Sequence[float], model: MaskedAutoencoder
) -> list[ChosenMask]:
    """Masks of a pattern, one for each of `ratios` (none: the model's own mask ratio).

    Raises UserError for an unknown pattern, ratios for a pattern with a fixed one, a mask that
    leaves no patch visible or none hidden, and a file that is no picture.
    """
    grid = unit_grid(model)
    if pattern in ("random", "block"):
        masking = _random if pattern == "random" else block_masking

        def draw(images: Tensor, seeds: Tensor, ratio: float) -> PatchSplit:
            return model.of_units(masking(seeds, grid, ratio))

        return [_checked(pattern, partial(draw, ratio=one)) for one in ratios or [model.mask_ratio]]
    if pattern != "grid" and Path(pattern).suffix.lower() != ".png":
        raise UserError(f"--mask: {pattern} is none of {', '.join(PATTERNS)}, and no .png")
    if ratios:
        raise UserError(f"--mask-ratio: the share that {pattern} hides is fixed; omit the option")
    is_hidden = grid_mask(grid) if pattern == "grid" else drawn_mask(Path(pattern), grid)
    same = _same_for_all(is_hidden)
    return [_checked(pattern, lambda images, seeds: model.of_units(same(images, seeds)))]


def grid_of(model: MaskedAutoencoder) -> tuple[int, int]:
    """Rows and columns of the patches of an image."""
    (h, w), (p, q) = model.img_size, model.patch_size
    return h // p, w // q


def unit_grid(model: MaskedAutoencoder) -> tuple[int, int]:
    """Rows and columns of what is hidden or visible as a whole: patches, or units of 2^i x 2^i."""
    side = math.isqrt(model.units.shape[1])
    rows, columns = grid_of(model)
    return rows // side, columns // side


def block_masking(seeds: Tensor, grid: tuple[int, int], ratio: float) -> PatchSplit:
    """Block-wise mask (paper, figure 6): BLOCKS rectangles of random centre and shape.

    They grow together until as many patches are hidden as by random masking.  A pure function of
    each seed.
    """
    numbers = uniforms(seeds.cpu().numpy().view(np.uint64), 3 * BLOCKS)
    draws = torch.from_numpy(numbers).view(-1, BLOCKS, 3, 1, 1)
    rows, columns = grid
    down = (torch.arange(rows, dtype=torch.float64) + 0.5).view(-1, 1) / rows
    across = (torch.arange(columns, dtype=torch.float64) + 0.5).view(1, -1) / columns
    slant = torch.exp((2 * draws[:, :, 2] - 1) * math.log(STRETCH) / 2)
    # Size at which a rectangle reaches a patch; the patches reached first are hidden.
    reach = torch.maximum(
        (down - draws[:, :, 0]).abs() * slant, (across - draws[:, :, 1]).abs() / slant
    )
    order = reach.amin(dim=1).flatten(1).argsort(dim=1, stable=True).to(seeds.device)
    hidden = rows * columns - num_visible(rows * columns, ratio)
    return PatchSplit(order[:, hidden:], order[:, :hidden])


def grid_mask(grid: tuple[int, int]) -> Tensor:
    """Grid-wise mask (paper, figure 6): one of every 2 x 2 patches is visible.

    Bool [n], True = hidden.
    """
    visible = torch.zeros(grid, dtype=torch.bool)
    visible[::2, ::2] = True
    return ~visible.flatten()


def drawn_mask(path: Path, grid: tuple[int, int]) -> Tensor:
    """Mask from a picture, stretched over the image: white patches are hidden.

    Bool [n], True = hidden.  Raises UserError where the picture cannot be read, or is partly
    transparent.
    """
    try:
        stored = read_mask(path.read_bytes())
        if stored.kind == GRAY:
            white = Image.fromarray((stored.values / stored.top).astype(np.float32))
        else:
            colours = stored.colours()[..., None] >> np.array([16, 8, 0], np.uint32) & 255
            gray = Image.fromarray(colours.astype(np.uint8)).convert("L")
            white = Image.fromarray(np.array(gray, np.float32) / 255)
    except OSError as error:
        raise UserError(f"--mask: {path}: cannot be read: {error.strerror}") from None
    except BadImage as error:
        raise UserError(f"--mask: {path}: {error}") from None
    share = np.array(white.resize((grid[1], grid[0]), Image.Resampling.BOX))
    return torch.from_numpy(share).flatten() > 0.5


def _random(seeds: Tensor, grid: tuple[int, int], ratio: float) -> PatchSplit:
    return random_masking(seeds, grid[0] * grid[1], ratio)


def _same_for_all(is_hidden: Tensor) -> Callable[[Tensor, Tensor], PatchSplit]:
    keep, masked = (~is_hidden).nonzero().flatten(), is_hidden.nonzero().flatten()

    def draw(images: Tensor, seeds: Tensor) -> PatchSplit:
        ids = (part.to(images.device).expand(len(images), -1) for part in (keep, masked))
        return PatchSplit(*ids)

    return draw


def _checked(pattern: str, draw: Callable[[Tensor, Tensor], PatchSplit]) -> ChosenMask:
    """Mask with its share of hidden patches.  Raises UserError where it hides none or all."""
    split = draw(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    hidden = split.ids_masked.shape[1]
    total = hidden + split.ids_keep.shape[1]
    if not 0 < hidden < total:
        raise UserError(
            f"--mask, --mask-ratio: hides {hidden} of {total} patches; "
            "at least one must be visible and one hidden"
        )
    return ChosenMask(pattern, hidden / total, draw)
