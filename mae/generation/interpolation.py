"""Decoded paths between the latents of pairs of images, with the PSNR of their ends."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor

from mae.generation.latents import LatentSpace, angle_degrees, latent_path
from mae.pictures.reconstruction import psnr, unit


class DecodedPath(NamedTuple):
    """Decoded latents from one image to another."""

    steps: Float[Tensor, "k c h w"]
    """in [0, 1], the ends first and last"""
    psnr: tuple[float, float]
    """of the decoded ends against the images, in dB"""
    latent_distance: float
    angle_degrees: float
    """between the latents of the ends"""


def decoded_paths(
    space: LatentSpace, images: Shaped[Tensor, "b c h w"], shares: Sequence[float]
) -> list[DecodedPath]:
    """Path of each pair of consecutive integer images, at `shares` of the way from 0 to 1."""
    paths = []
    latents = space.encode(images).unflatten(0, (-1, 2))
    for (first, second), ends in zip(latents, images.unflatten(0, (-1, 2)), strict=True):
        steps = space.decode(latent_path(first, second, shares, space.path))
        quality = psnr((steps[[0, -1]] - unit(ends)).square().mean((1, 2, 3))).tolist()
        distance = (first - second).norm().item()
        angle = angle_degrees(first, second)
        paths.append(DecodedPath(steps, (quality[0], quality[1]), distance, angle))
    return paths
