"""Scale of the latents in an export: measured with the exported weights, or the source's."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.opening import open_images
from mae.data.shards import expand_shards
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.objectives.autoencoders.backbones import encode_map
from mae.objectives.autoencoders.baselines import SHARDS, spread
from mae.objectives.kl.model import KlAutoencoder
from mae.objectives.kl.moments import scale_of
from mae.storage.remote import is_remote

IMAGES = 256
"""maximum number of training images that the latents are measured on"""

BATCH = 8

KEPT = """\
`scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` are those of the folder that the
encoder comes from: only the decoder was trained, the latents are the same."""

MEASURED = """\
`scaling_factor` is 1 / {std:.4f}, the standard deviation of all latents of {images}; `latents_mean`
and `latents_std` are those of each channel. Scale latents by one of the two: a pipeline that uses
both, as Stable Diffusion XL's, expects scaling_factor 1 beside them."""

TRAINED = "the last training images, measured in training{average}: none can be opened here"

UNMEASURED = """\
`scaling_factor` is 1: no training step has measured the latents, and no training image can be
opened here."""


class ExportedScale(NamedTuple):
    """Settings of diffusers' AutoencoderKL on the scale of its latents."""

    settings: dict[str, Any]
    words: str
    """their origin, for the model card"""


def exported_scale(objective: KlAutoencoder, config: Config) -> ExportedScale:
    """Scale of the latents of the weights in `objective`.

    The source's where its encoder was kept; else measured over training images, or, where none can
    be opened, by the training.
    """
    if kept := objective.kept_scale():
        return ExportedScale(kept, KEPT)
    sums, count = np.zeros(3 * objective.bottleneck.latent_dim), 0
    for images in training_batches(objective, config):
        sums += posterior_moments(objective, images).numpy()
        count += len(images)
    scale, images = scale_of(sums.tolist()), f"{count} training images, by these weights"
    if scale is None:
        scale = objective.bottleneck.scale()
        average = " before its weights were averaged" if config.train.ema else ""
        images = TRAINED.format(average=average)
    if scale is None:
        return ExportedScale({"scaling_factor": 1.0}, UNMEASURED)
    settings = {
        "scaling_factor": 1 / max(scale.overall_std, 1e-12),
        "latents_mean": scale.mean,
        "latents_std": scale.std,
    }
    return ExportedScale(settings, MEASURED.format(std=scale.overall_std, images=images))


@torch.no_grad()
def posterior_moments(
    objective: KlAutoencoder, images: Shaped[Tensor, "b c h w"]
) -> Float[Tensor, " three_n"]:
    """Count, expected sum and sum of squares of each channel's latents, float64: z² is μ² + σ²."""
    features = encode_map(objective.encoder, objective.normalize(images))
    mean, log_variance = (one.double() for one in objective.bottleneck.posterior(features))
    count = torch.full_like(mean[0, :, 0, 0], mean[:, 0].numel())
    squares = mean.square() + log_variance.exp()
    return torch.cat([count, mean.sum((0, 2, 3)), squares.sum((0, 2, 3))])


def training_batches(
    objective: KlAutoencoder, config: Config
) -> Iterator[Shaped[Tensor, "b c h w"]]:
    """Batches of centred views of up to `IMAGES` training images; none where they are lost."""
    found = []
    try:
        if images := some_shards(config):
            views = CentredViews(images, objective.img_size, config.data.crop_pct)
            for number in spread(images, IMAGES, config.train.seed):
                with suppress(SampleError):
                    found.append(views.view(number))
    except UserError:  # moved or deleted since, or out of reach
        return
    for start in range(0, len(found), BATCH):
        yield stack(found[start : start + BATCH])


def some_shards(config: Config) -> Images | None:
    """Images of some training shards; of the first alone if they are remote; None: no shards."""
    data = config.data
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    if not patterns:
        return None
    shards = expand_shards(patterns, "data.train", data.allow_pipe)
    count = 1 if any(map(is_remote, patterns)) else SHARDS
    chosen = np.unique(np.linspace(0, len(shards) - 1, count).round().astype(int))
    return open_images([str(shards[at]) for at in chosen], "data.train", config)
