"""Declaration of the autoencoder with finite scalar quantisation."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any

from pydantic import Field

from mae.config.sections import Config
from mae.objectives.autoencoders.discrete_declaration import (
    CODES_CODE,
    MOST_CODES,
    DiscreteDeclaration,
    DiscreteModel,
)
from mae.objectives.declaration import Card


class FsqModel(DiscreteModel):
    """Networks and levels of an autoencoder with finite scalar quantisation."""

    levels: tuple[Annotated[int, Field(ge=3)], ...] = (8, 5, 5, 5)
    """levels of each number of a latent vector, 3 or more; their product is the number of codes"""
    latent_dim: int = 0
    """leave at 0: numbers in the vector of a code, one per entry of levels"""


def fsq_model(config: Config) -> FsqModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, FsqModel)
    return config.model


class FsqDeclaration(DiscreteDeclaration):
    """Autoencoder with finite scalar quantisation."""

    name = "fsq"
    summary = "FSQ: images as maps of codes without a codebook (Mentzer et al. 2023)"
    model = FsqModel

    collapse_level = "watch"  # without a codebook they come into use as the encoder learns
    collapse_remedy = "Choose fewer or smaller model.levels."

    def recorded_codes(self, settings: Mapping[str, Any]) -> int:
        """Product of the levels."""
        return prod(settings["model.levels"])

    def num_codes(self, config: Config) -> int:
        """Product of the levels."""
        return prod(fsq_model(config).levels)

    def latent_dim(self, config: Config) -> int:
        """One number per entry of the levels."""
        return len(fsq_model(config).levels)

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        model = fsq_model(config)
        if not model.levels:
            yield "model.levels", "must name the levels of at least one number"
        if (codes := self.num_codes(config)) > MOST_CODES:
            yield "model.levels", f"make {codes:,} codes; at most {MOST_CODES:,}"
        if model.backbone == "ldm":
            yield "model.backbone", "ldm has no place for codes without a codebook; use conv or vit"
        if model.latent_dim not in (0, len(model.levels)):
            yield (
                "model.latent_dim",
                f"{model.latent_dim} conflicts with the {len(model.levels)} entries of "
                "model.levels: leave it at 0",
            )

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        levels = list(fsq_model(config).levels)
        return Card(
            "trained with finite scalar quantisation",
            f"{self.num_codes(config):,} codes, levels {levels}",
            "An autoencoder with finite scalar quantisation (Mentzer et al. 2023): each image is a "
            "map of codes, without a codebook that could collapse.",
            tags=("fsq",),
            code=CODES_CODE,
        )


DECLARATION = FsqDeclaration()
