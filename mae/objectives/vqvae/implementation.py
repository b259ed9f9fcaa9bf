"""Implementation of the vector-quantised autoencoder."""

from collections.abc import Mapping
from typing import ClassVar

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import MapShape, build_backbone
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder, DiscreteImplementation
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.vqvae.bottleneck import VectorQuantizer
from mae.objectives.vqvae.declaration import VqVaeModel, vqvae_model
from mae.objectives.vqvae.diffusers import write_diffusers


class VqVaeImplementation(DiscreteImplementation):
    """Implementation of the vector-quantised autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {
        "onnx": write_onnx,
        "torch": write_programs,
        "diffusers": write_diffusers,
    }

    def build(self, config: Config) -> DiscreteAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), vqvae_model(config)
        return DiscreteAutoencoder(config, backbone, vector_quantizer(backbone.encoded, model))


def vector_quantizer(shape: MapShape, model: VqVaeModel) -> VectorQuantizer:
    """Quantiser of a map of features of this shape."""
    return VectorQuantizer(
        shape,
        model.latent_dim,
        codebook_size=model.codebook_size,
        commitment=model.commitment,
        decay=model.codebook_decay,
        kmeans_start=model.kmeans_start,
        revive_below=model.revive_below,
    )


IMPLEMENTATION = VqVaeImplementation()
