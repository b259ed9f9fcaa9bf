"""RandAugment (Cubuk et al. 2020) on finished crops: timm's, made a function of a key."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from mae.base.errors import UserError

Augment = Callable[[Tensor, int], Tensor]
"""uint8 [3 h w] and a key of 64 bits → uint8 [3 h w]"""


def build_augment(
    policy: str, mean: Sequence[float], size: tuple[int, int], setting: str = "policy"
) -> Augment:
    """As fine-tuning recipes set it up: moved by up to .45 of the side, filled with the mean.

    Raises UserError where timm does not know `policy`, which messages call `setting`.
    """
    settings = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": tuple(round(255 * value) for value in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        transform = rand_augment_transform(policy, settings)
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(f"{setting}: {policy!r}: timm knows no such policy") from error
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize

    def augment(view: Tensor, key: int) -> Tensor:
        # The policy draws from the libraries' generators: lent for the moment, and given back.
        before = random.getstate(), np.random.get_state()
        random.seed(key)
        np.random.seed(key % 2**32)
        try:
            image = transform(Image.fromarray(view.permute(1, 2, 0).contiguous().numpy()))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    return augment


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep so many bits of each channel; none of them is black, which newer Pillow refuses."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)
