"""Declaration of the vector-quantised autoencoder."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from mae.config.sections import Config
from mae.config.types import Fraction, Rate
from mae.objectives.autoencoders.discrete_declaration import (
    CODES_CODE,
    MOST_CODES,
    DiscreteDeclaration,
    DiscreteModel,
)
from mae.objectives.declaration import Card

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding


class VqVaeModel(DiscreteModel):
    """Networks and codebook of a vector-quantised autoencoder."""

    codebook_size: Annotated[int, Field(ge=2, le=MOST_CODES)] = 512
    """number of codes"""
    commitment: Rate = 0.25
    """weight of the loss that keeps the encoder's vectors near their codes"""
    codebook_decay: Fraction = 0.99
    """decay per step of the codebook's moving averages, in [0, 1)"""
    kmeans_start: bool = True
    """replace the random codebook by k-means of the first step's vectors"""
    revive_below: Fraction = 0.1
    """codes used less than this share of the mean use are replaced by vectors of the step (0:
    never)"""


def vqvae_model(config: Config) -> VqVaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, VqVaeModel)
    return config.model


class VqVaeDeclaration(DiscreteDeclaration):
    """Vector-quantised autoencoder."""

    name = "vqvae"
    summary = "VQ-VAE: images as maps of codes from a learned codebook (van den Oord et al. 2017)"
    model = VqVaeModel
    losses: ClassVar = ("reconstruction", "commitment")
    loss_settings: ClassVar = ("model.commitment",)
    exports: ClassVar[Mapping[str, str]] = {
        "diffusers": "a folder for diffusers' VQModel, with model.backbone=ldm",
    }

    collapse_remedy = (
        "Keep model.kmeans_start and model.revive_below on, use fewer codes, or choose "
        "objective=fsq, which needs no codebook."
    )

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        if config.train.ema:
            yield (
                "train.ema",
                "the codebook follows the current weights, and would not fit averaged ones; leave "
                "it 0",
            )

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder with codes, and on a codebook without remedies."""
        from mae.evaluation.diagnosis import Finding

        yield from super().cautions(config, images)
        model = vqvae_model(config)
        if not model.kmeans_start and not model.revive_below:
            yield Finding(
                "watch",
                "model.kmeans_start=false with model.revive_below=0: the codebook will collapse",
                "On digits 4 % of the codes were used instead of all, at a PSNR 6 dB lower: leave "
                "one of the two on, or choose objective=fsq.",
            )

    def recorded_codes(self, settings: Mapping[str, Any]) -> int:
        """Size of the codebook."""
        return int(settings["model.codebook_size"])

    def num_codes(self, config: Config) -> int:
        """Size of the codebook."""
        return vqvae_model(config).codebook_size

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = vqvae_model(config)
        return Card(
            "trained as a VQ-VAE",
            f"{model.codebook_size} codes of {model.latent_dim} numbers, by moving averages",
            "A vector-quantised autoencoder (van den Oord et al. 2017): each image is a map of "
            "codes, for compression and for models of images in tokens.",
            tags=("vq-vae",),
            code=CODES_CODE,
        )


DECLARATION = VqVaeDeclaration()
