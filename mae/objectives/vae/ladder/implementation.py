"""Implementation of the ladder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.baselines import Baselines, fit_baselines
from mae.objectives.autoencoders.gaussian_prior import sample_block, traversal_block
from mae.objectives.autoencoders.implementation import Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut
from mae.objectives.vae.implementation import (
    ACTIVE,
    VaeImplementation,
    kl_weight,
    latent_nats,
    moments,
)
from mae.objectives.vae.ladder.bottleneck import LadderBottleneck
from mae.objectives.vae.ladder.declaration import ladder_model
from mae.objectives.vae.ladder.groups import group_key
from mae.objectives.vae.ladder.model import LadderAutoencoder
from mae.pictures.drawing import displayable


class LadderImplementation(VaeImplementation):
    """Implementation of the ladder: that of the variational autoencoder, and its groups."""

    def build(self, config: Config) -> LadderAutoencoder:
        """Build the model.  Raises UserError for a grid that the groups do not divide."""
        backbone, model = build_backbone(config), ladder_model(config)
        bottleneck = LadderBottleneck(
            backbone.encoded,
            model.groups,
            kl=kl_weight(config),
            depth=model.depth,
            balance=model.balance,
        )
        return LadderAutoencoder(config, backbone, bottleneck)

    def after_resize(self, objective: Objective, old_grid: tuple[int, int]) -> None:
        """Raise UserError: the coarsest group's start is of the run's size."""
        raise UserError("--img-size: a ladder's latents are those of images of the run's size")

    def fit_baselines(self, objective: Autoencoder, held_out: HeldOut) -> Baselines:
        """Mean image, and PCA of whole images with as many numbers as all groups."""
        count = ladder_of(objective).bottleneck.count
        return fit_baselines(held_out, objective.img_size, count, objective.img_size)

    def further_columns(self, objective: Autoencoder, images: Tensor) -> Mapping[str, Tensor]:
        """Reconstructions from the coarser groups alone, the others at the mean of their prior."""
        ladder = ladder_of(objective)
        latents = ladder.latents(images)
        found = {}
        for name, part in list(ladder_bottleneck(ladder).parts().items())[:-1]:
            kept = torch.zeros_like(latents)
            kept[:, : part.stop] = latents[:, : part.stop]
            title = name if part.start == 0 else f"to {name}"
            found[f"{title} alone"] = displayable(images, ladder.decode(kept))
        return found

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """Samples, and images along the most active latents of each group."""
        ladder = ladder_of(objective)
        nats, found = latent_nats(ladder, images), [sample_block(ladder, images, seeds)]
        for name, part in ladder_bottleneck(ladder).parts().items():
            own = torch.full_like(nats, -torch.inf)
            own[part] = nats[part]
            found.append(traversal_block(ladder, images, own, name + ", {:.2f} nats"))
        return found

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Figures of all latents, and KL and active latents of each group."""
        found = dict(super().own_figures(objective, sums, images))
        nats, variance = moments(sums, images)
        parts = ladder_bottleneck(ladder_of(objective)).parts().values()
        for group, part in enumerate(parts, start=1):
            found[group_key("kl_nats", group)] = float(nats[part].sum())
            found[group_key("active", group)] = float(np.mean(variance[part] > ACTIVE))
        return found


def ladder_of(objective: Autoencoder) -> LadderAutoencoder:
    """Cast to LadderAutoencoder."""
    assert isinstance(objective, LadderAutoencoder)
    return objective


def ladder_bottleneck(ladder: LadderAutoencoder) -> LadderBottleneck:
    """Cast its bottleneck to LadderBottleneck."""
    assert isinstance(ladder.bottleneck, LadderBottleneck)
    return ladder.bottleneck


IMPLEMENTATION = LadderImplementation()
