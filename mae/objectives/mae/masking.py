"""Random masking: a split of each image's patches, a pure function of the sample's seed."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mae.base.tensor_hashing import counters


class PatchSplit(NamedTuple):
    """Split of the patches of each image into visible and hidden ones, by index."""

    ids_keep: Int[Tensor, "b visible"]
    """visible patches, the input of the encoder, in shuffled order"""
    ids_masked: Int[Tensor, "b masked"]
    """hidden patches, which the decoder predicts, in shuffled order"""


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Number of visible patches: int(n * (1 - mask_ratio)), as the original release rounds."""
    return int(num_patches * (1 - mask_ratio))


def random_masking(seeds: Int[Tensor, " b"], num_patches: int, mask_ratio: float) -> PatchSplit:
    """Per-sample random masking (paper, section 3, "Masking"): shuffle, keep the first ones.

    Each patch gets a hash of (seed, patch); their sort is the permutation.  Integer arithmetic
    only, so a seed hides the same patches on every device.
    """
    ids_shuffle = torch.argsort(counters(seeds, num_patches), dim=1, stable=True)
    visible = num_visible(num_patches, mask_ratio)
    return PatchSplit(ids_shuffle[:, :visible], ids_shuffle[:, visible:])


def random_partition(seeds: Int[Tensor, " b"], num_patches: int, parts: int) -> list[PatchSplit]:
    """Splits whose hidden patches are disjoint and together all patches: `parts` of equal size.

    The order is that of `random_masking`; sizes differ by one patch where they must.
    """
    order = torch.argsort(counters(seeds, num_patches), dim=1, stable=True)
    pieces = order.tensor_split(parts, dim=1)
    return [
        PatchSplit(torch.cat([*pieces[:i], *pieces[i + 1 :]], dim=1), hidden)
        for i, hidden in enumerate(pieces)
    ]


def binary_mask(split: PatchSplit) -> Float[Tensor, "b n"]:
    """Mask of the paper: 1 = removed, 0 = visible."""
    b, visible = split.ids_keep.shape
    mask = torch.ones(b, visible + split.ids_masked.shape[1], device=split.ids_keep.device)
    return mask.scatter(1, split.ids_keep, 0.0)
