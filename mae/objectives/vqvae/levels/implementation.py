"""Implementation of the vector-quantised autoencoder with two levels of codes."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.export.contract import Writer
from mae.networks.patches import unit_values
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder, DiscreteImplementation
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.implementation import Sums, psnr_of
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.vqvae.declaration import vqvae_model
from mae.objectives.vqvae.implementation import vector_quantizer
from mae.objectives.vqvae.levels.bottleneck import TwoLevelQuantizer
from mae.objectives.vqvae.levels.declaration import LEVELS
from mae.pictures.drawing import displayable


class VqVae2Implementation(DiscreteImplementation):
    """Implementation of the vector-quantised autoencoder with two levels of codes."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> DiscreteAutoencoder:
        """Build the model from the settings.  Raises UserError for a grid that is not even."""
        backbone, model = build_backbone(config), vqvae_model(config)
        new_quantizer = partial(vector_quantizer, model=model)
        quantizer = TwoLevelQuantizer(backbone.encoded, new_quantizer, model.depth)
        return DiscreteAutoencoder(config, backbone, quantizer)

    def after_resize(self, objective: Objective, old_grid: tuple[int, int]) -> None:
        """Fit decoder and maps of codes to the images' new size.

        Raises UserError where the grid is not even.
        """
        super().after_resize(objective, old_grid)
        assert isinstance(objective, Autoencoder)
        shape = objective.from_latent.shape
        if shape.rows % 2 or shape.columns % 2:
            raise UserError(
                f"--img-size: gives {shape.rows} x {shape.columns} bottom codes, which two levels "
                "need to be even"
            )

    def further_columns(self, objective: Autoencoder, images: Tensor) -> Mapping[str, Tensor]:
        """Maps of codes, and reconstructions from one level alone."""
        alone = zip(LEVELS, one_level_alone(objective, images), strict=True)
        shown = {f"{level.name} alone": displayable(images, one) for level, one in alone}
        return {**super().further_columns(objective, images), **shown}

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """PSNR of each level alone; uses of each code."""
        truth = unit_values(images)
        made = one_level_alone(objective, images)
        totals = [psnr_of(one.float(), truth).double().sum().item() for one in made]
        return np.concatenate([totals, super().own_sums(objective, images, seeds)])

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Use of the codes of each level, and its PSNR alone."""
        totals, uses = np.split(sums, [len(LEVELS)])
        alone = zip(LEVELS, totals.tolist(), strict=True)
        return {
            **super().own_figures(objective, uses, images),
            **{level.key("psnr"): total / images for level, total in alone},
        }


@torch.no_grad()
def one_level_alone(objective: Autoencoder, images: Tensor) -> list[Tensor]:
    """Reconstructions from the top and from the bottom level alone, [b c h w] in [0, 1].

    The other level's vectors are replaced by their mean.
    """
    assert isinstance(objective, DiscreteAutoencoder)
    quantizer = objective.bottleneck
    assert isinstance(quantizer, TwoLevelQuantizer)
    return [objective.decode(one) for one in quantizer.alone(objective.codes(images))]


IMPLEMENTATION = VqVae2Implementation()
