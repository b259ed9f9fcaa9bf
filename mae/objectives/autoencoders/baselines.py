"""Trivial predictors beside an autoencoder: mean image, and PCA with as many numbers.

Both are fitted on training images.  Where the latents are a map, PCA is that of patches with as
many numbers per patch as the map has per position.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.hashing import Stream, fold
from mae.data.images import Images
from mae.data.opening import training_images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.networks.patches import patchify, unit_values, unpatchify
from mae.objectives.implementation import HeldOut

MOST_IMAGES = 2000
"""maximum number of training images that PCA is fitted on"""

MOST_NUMBERS = 64_000_000
"""maximum number of values that PCA is fitted on; large images are fewer"""

CHOSEN_ON = 200
"""maximum number of training images on which `choose` compares, a fifth of all at most"""

SHARDS = 8
"""number of training shards that the images are taken from"""


class Pca(NamedTuple):
    """Principal components of images, or of their patches."""

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "k d"]
    """orthonormal rows, by falling variance"""
    patch_size: tuple[int, int]

    def reconstruct(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Project images in [0, 1] onto the components."""
        patches = patchify(images, self.patch_size) - self.mean
        projected = patches @ self.basis.T @ self.basis + self.mean
        return unpatchify(projected, (images.shape[2], images.shape[3]), self.patch_size)


def fit_pca(images: Float[Tensor, "n c h w"], components: int, patch_size: tuple[int, int]) -> Pca:
    """PCA of the patches of images in [0, 1]; fewer components where there are fewer patches."""
    rows = patchify(images, patch_size).flatten(0, 1)
    mean = rows.mean(dim=0)
    rows = rows - mean
    components = min(components, len(rows), rows.shape[1])
    if len(rows) < rows.shape[1]:  # eigenvectors of the smaller of the two matrices
        _, vectors = torch.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ vectors[:, -components:].flip(1)
        basis = torch.linalg.qr(vectors).Q  # not divided by their lengths, of which some may be 0
    else:
        _, vectors = torch.linalg.eigh(rows.T @ rows)
        basis = vectors[:, -components:].flip(1)
    return Pca(mean, basis.T.contiguous(), patch_size)


class Baselines(NamedTuple):
    """Trivial predictors of images in [0, 1]."""

    mean_image: Float[Tensor, "c h w"]
    pca: Pca
    images: int
    """number of training images that they are fitted on"""


def fit_baselines(
    held_out: HeldOut,
    img_size: tuple[int, int],
    components: int,
    patch_size: tuple[int, int],
    choose: Callable[[Tensor, Pca], Pca] | None = None,
) -> Baselines:
    """Fit the baselines of a run.  All processes call it together and get the same.

    `choose`: (images in [0, 1], PCA of all components) → the PCA with some of them; these training
    images are kept out of the fit, as long as there are five or more.  Fitted anew at each start
    of a run: the images are decoded in seconds, a file of them could be outdated.

    Raises as `training_pixels`.
    """
    pixels = training_pixels(held_out, img_size).to(held_out.device)
    unit = unit_values(pixels)
    kept_out = min(CHOSEN_ON, len(unit) // 5) if choose else 0
    pca = fit_pca(unit[kept_out:], components, patch_size)
    if choose:
        pca = choose(unit[:kept_out] if kept_out else unit, pca)
    elif len(pca.basis) < components:
        held_out.log(
            f"baseline  PCA has {len(pca.basis):,} components, not {components:,}: it is fitted "
            f"on {len(unit):,} training images, and so weaker than the latents' size allows"
        )
    return Baselines(unit.mean(dim=0), pca, len(unit))


def training_pixels(held_out: HeldOut, img_size: tuple[int, int]) -> Shaped[Tensor, "n c h w"]:
    """Some training images, integers on the CPU: the same on all processes, which call it together.

    Raises, on all processes alike, StorageError where the training shards cannot be read, and
    UserError where no image can be decoded.
    """
    config = held_out.config
    images = training_images(config)
    limit = min(MOST_IMAGES, MOST_NUMBERS // (config.data.in_chans * img_size[0] * img_size[1]))
    numbers = spread(images, max(limit, 2), config.train.seed)
    views = CentredViews(images, img_size, config.data.crop_pct)
    own: list[tuple[int, Tensor | StorageError]] = []
    for number in numbers[held_out.process_index :: held_out.num_processes]:
        try:
            own.append((number, views.view(number)))
        except StorageError as error:  # raised by all processes together
            own.append((number, error))
            break
        except SampleError:
            continue
    found: list[Tensor] = []
    for _, view in sorted(held_out.gather(own), key=lambda one: one[0]):
        if isinstance(view, StorageError):
            raise view
        found.append(view)
    if not found:
        raise UserError(f"none of {len(numbers)} training images is readable")
    return stack(found)


def spread(images: Images, limit: int, seed: int) -> list[int]:
    """Numbers of up to `limit` images from up to `SHARDS` shards, evenly spaced."""
    manifest = images.manifest
    counts = manifest.counts()
    shards = np.unique(np.linspace(0, len(counts) - 1, SHARDS).round().astype(int))
    numbers = np.concatenate(
        [manifest.first[shard] + np.arange(counts[shard], dtype=np.int64) for shard in shards]
    )
    drawn = np.argsort(fold(seed, Stream.PANEL, numbers, 3), kind="stable")[:limit]
    return sorted(numbers[drawn].tolist())
