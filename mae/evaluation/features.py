"""Frozen features of labelled shards."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.data.loader import CentredViews, batches
from mae.objective import Objective

PIXELS = "pixels"
PIXEL_SIDE = 16

Matrix = npt.NDArray[np.float32]


class LabelledFeatures(NamedTuple):
    """Vectors by name ([n d] each), and the class of each row."""

    vectors: dict[str, Matrix]
    labels: npt.NDArray[np.int64]


def extract(
    encode: Callable[[Tensor], dict[str, Tensor]],
    views: CentredViews,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    workers: int = 0,
) -> LabelledFeatures:
    """`encode` every image's centred view (integers [b c h w] → vectors [b d] by name).

    Raises UserError for an image that does not decode.
    """
    slices = [
        range(start, min(start + batch_size, len(views)))
        for start in range(0, len(views), batch_size)
    ]
    rows: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for images in batches(views, slices, workers):
            for name, vectors in encode(images.to(device)).items():
                rows.setdefault(name, []).append(vectors.float().cpu())
    vectors = {name: torch.cat(parts).numpy() for name, parts in rows.items()}
    return LabelledFeatures(vectors, views.images.manifest.label.astype(np.int64))


def encoder_features(objective: Objective) -> Callable[[Tensor], dict[str, Tensor]]:
    """The pooled features of a frozen encoder."""
    return lambda images: objective.encode(images).pooled


def pixel_features(images: Tensor) -> dict[str, Tensor]:
    """The pixels themselves, larger images averaged down to a side of 16 at most."""
    pixels = images.float() / torch.iinfo(images.dtype).max
    side = [min(length, PIXEL_SIDE) for length in images.shape[-2:]]
    if list(images.shape[-2:]) != side:
        pixels = F.interpolate(pixels, size=side, mode="bilinear", antialias=True)
    return {PIXELS: pixels.flatten(1)}
