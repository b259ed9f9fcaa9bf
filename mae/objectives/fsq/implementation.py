"""Implementation of the autoencoder with finite scalar quantisation."""

from collections.abc import Mapping
from typing import ClassVar

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.discrete import DiscreteAutoencoder, DiscreteImplementation
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.fsq.bottleneck import FiniteScalarQuantizer
from mae.objectives.fsq.declaration import fsq_model


class FsqImplementation(DiscreteImplementation):
    """Implementation of the autoencoder with finite scalar quantisation."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> DiscreteAutoencoder:
        """Build the model from the settings."""
        backbone = build_backbone(config)
        quantizer = FiniteScalarQuantizer(backbone.encoded, fsq_model(config).levels)
        return DiscreteAutoencoder(config, backbone, quantizer)


IMPLEMENTATION = FsqImplementation()
