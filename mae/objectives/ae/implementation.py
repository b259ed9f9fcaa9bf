"""Implementation of the undercomplete autoencoder."""

from collections.abc import Mapping
from typing import ClassVar

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.bottleneck import LinearBottleneck
from mae.objectives.autoencoders.declaration import image_numbers, model_of, no_bottleneck
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.implementation import AutoencoderImplementation
from mae.objectives.autoencoders.model import Autoencoder


class AeImplementation(AutoencoderImplementation):
    """Implementation of the undercomplete autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> Autoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), model_of(config)
        if model.latent == "map":  # of an encoder whose patch size only timm knows
            shape, whole = backbone.encoded, image_numbers(config) or 0
            numbers = model.latent_dim * shape.rows * shape.columns
            if numbers >= whole:
                raise UserError(f"model.latent_dim: {no_bottleneck(numbers, whole)}")
        bottleneck = LinearBottleneck(backbone.encoded, model.latent, model.latent_dim)
        return Autoencoder(config, backbone, bottleneck)


IMPLEMENTATION = AeImplementation()
