"""Raw pixels as features of images and of patches: the baselines of the evaluations."""

import hashlib
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mae.config.sections import Config
from mae.evaluation.encoders import RAW, TOKENS, FrozenEncoder
from mae.networks.patches import unit_values

PIXELS = "pixels"

PIXEL_SIDE = 16
"""longest side in pixels of images used as features"""
PATCH_SIDE = 8
"""longest side in pixels of patches used as tokens"""


def pixel_encoder(config: Config, img_size: tuple[int, int], crop_pct: float) -> FrozenEncoder:
    """Encoder that returns the pixels, reduced as in `pixel_features`: a baseline."""
    rule = f"{config.data.bits} bits in [0, 1], sides of {PIXEL_SIDE} at most"  # of cached features
    return _without_weights(pixel_features, rule, img_size, crop_pct)


def pixel_features(images: Tensor) -> dict[str, Tensor]:
    """Pixels in [0, 1] as features, [b c h w] → [b d]; sides longer than PIXEL_SIDE are reduced."""
    pixels = unit_values(images)
    height, width = images.shape[-2:]
    if (size := reduced_size((height, width))) != (height, width):
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return {PIXELS: pixels.flatten(1)}


def reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the pixels of images of `size`: PIXEL_SIDE at most."""
    height, width = size
    return min(height, PIXEL_SIDE), min(width, PIXEL_SIDE)


def patch_pixel_encoder(
    config: Config, patch_size: tuple[int, int], img_size: tuple[int, int], crop_pct: float
) -> FrozenEncoder:
    """Encoder whose patch tokens are the pixels of the patches: a baseline."""

    def encode(images: Tensor) -> dict[str, Tensor]:
        pixels = unit_values(images)
        patches = F.unfold(pixels, patch_size, stride=patch_size).transpose(1, 2)
        patches = patches.unflatten(2, (images.shape[1], *patch_size))
        side = min(patch_size[0], PATCH_SIDE), min(patch_size[1], PATCH_SIDE)
        reduced = F.adaptive_avg_pool2d(patches.flatten(0, 1), side)
        return {TOKENS: reduced.flatten(1).unflatten(0, patches.shape[:2])}

    patch = "x".join(map(str, patch_size))
    rule = (
        f"{config.data.bits} bits in [0, 1], patches of {patch} reduced to sides of "
        f"{PATCH_SIDE} at most"
    )
    return _without_weights(encode, rule, img_size, crop_pct)


def _without_weights(
    encode: Callable[[Tensor], dict[str, Tensor]],
    rule: str,
    img_size: tuple[int, int],
    crop_pct: float,
) -> FrozenEncoder:
    """Baseline `encode` as an encoder; `rule` describes its pixels."""
    return FrozenEncoder(
        encode=encode,
        sha256=hashlib.sha256().hexdigest(),
        img_size=img_size,
        crop_pct=crop_pct,
        pixels=rule,
        name=RAW,
    )
