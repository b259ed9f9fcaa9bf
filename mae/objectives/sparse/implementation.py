"""Implementation of the sparse autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.sparse.bottleneck import L1Bottleneck, TopKBottleneck
from mae.objectives.sparse.declaration import sparse_model
from mae.objectives.sparse.model import SparseAutoencoder
from mae.objectives.sparse.pictures import parts_block


class SparseImplementation(AutoencoderImplementation):
    """Implementation of the sparse autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> SparseAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), sparse_model(config)
        shape, positions = backbone.encoded, 1
        if model.latent == "map":
            positions = shape.rows * shape.columns
        dead_after = model.dead_after * positions
        if model.sparsity == "l1":
            bottleneck = L1Bottleneck(shape, model.latent, model.latent_dim, dead_after)
        else:
            bottleneck = TopKBottleneck(
                shape,
                model.latent,
                model.latent_dim,
                k=model.k,
                aux_k=model.aux_k,
                dead_after=dead_after,
            )
        return SparseAutoencoder(config, backbone, bottleneck)

    def pca_components(self, config: Config) -> int:
        """Number of latents that are not zero, per vector; for L1 of all latents."""
        model = sparse_model(config)
        return model.k if model.sparsity == "topk" else model.latent_dim

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """The most active latents of the first images, each decoded alone."""
        assert isinstance(objective, SparseAutoencoder)
        return (parts_block(objective, images),)

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Number of vectors, their active latents, and uses of each latent."""
        rows = objective.latents(images).movedim(1, -1).flatten(0, -2) != 0
        uses = rows.sum(dim=0).double().cpu().numpy()
        return np.concatenate([[len(rows), uses.sum()], uses])

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Active latents per vector, and the share that no held-out image uses."""
        vectors, active = sums[:2]
        return {
            "active_latents": float(active / vectors),
            "dead_latents": float((sums[2:] == 0).mean()),
        }


IMPLEMENTATION = SparseImplementation()
