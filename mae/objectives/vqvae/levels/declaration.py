"""Declaration of the vector-quantised autoencoder with two levels of codes."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from mae.config.sections import Config
from mae.objectives.autoencoders.code_level import CodeLevel
from mae.objectives.autoencoders.declaration import (
    held_out,
    reduction,
    shown_values,
)
from mae.objectives.autoencoders.discrete_declaration import (
    code_charts,
    code_metrics,
)
from mae.objectives.charts import Chart, Curve
from mae.objectives.declaration import Card, Kind
from mae.objectives.vqvae.declaration import VqVaeDeclaration, VqVaeModel, vqvae_model

LEVELS = (CodeLevel("top", 2), CodeLevel("bottom", 1))

USES: dict[str, Kind] = {one.key("uses"): "sum" for one in LEVELS}

CODE = """\
codes = objective.codes(images)  # [1, 5, rows, columns]: a top code, the 4 bottom ones below it
top, bottom = objective.bottleneck.split(codes)  # maps of codes, [1, rows, columns] each
again = objective.decode_codes(codes)  # [1, channels, height, width] in [0, 1]
"""


class VqVae2Model(VqVaeModel):
    """Networks and codebooks of a vector-quantised autoencoder with two levels."""

    backbone: Literal["conv", "vit"] = "conv"
    """networks: conv, convolutions that halve the image in each stage; vit, a Vision Transformer
    (model.encoder) with a transformer as decoder"""
    latent: Literal["map"] = "map"
    """two grids: bottom, one code for each square of 2^stages pixels (vit: for each patch), and
    top, one code for each four of these"""


class VqVae2Declaration(VqVaeDeclaration):
    """Vector-quantised autoencoder with two levels of codes."""

    name = "vqvae2"
    summary = "VQ-VAE-2: images as codes of two levels, coarse and fine (Razavi et al. 2019)"
    model = VqVae2Model
    levels = LEVELS
    losses: ClassVar = ("reconstruction", *(one.key("commitment") for one in LEVELS))
    statistics: ClassVar[Mapping[str, Kind]] = {"psnr": "mean", **USES}
    metrics = code_metrics(LEVELS)
    charts = (
        *code_charts(LEVELS),
        Chart(
            "PSNR of one level alone (dB)",
            (
                Curve("psnr", "both levels", "health"),
                *(Curve(one.key("psnr"), f"{one.name} alone", "health") for one in LEVELS),
                Curve("psnr_mean_image", "mean image", "health", is_reference=True),
            ),
        ),
    )
    about_learning = (
        f"{VqVaeDeclaration.about_learning} One level alone: the other level's vectors are "
        "replaced by their mean."
    )
    exports: ClassVar[Mapping[str, str]] = {}
    collapse_remedy = "Keep model.kmeans_start and model.revive_below on, or use fewer codes."

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        side, size = reduction(config), config.data.img_size
        if side and size and any(length % side == 0 and length // side % 2 for length in size):
            rows, columns = (length // side for length in size)
            yield (
                "data.img_size",
                f"{size[0]} x {size[1]} gives {rows} x {columns} bottom codes, which two levels "
                f"need to be even: sides that divide by {2 * side}, or fewer model.stages",
            )

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = vqvae_model(config)
        return Card(
            "trained as a VQ-VAE with two levels",
            f"two levels of {model.codebook_size} codes of {model.latent_dim} numbers, by moving "
            "averages",
            "A vector-quantised autoencoder with two levels (Razavi et al. 2019): each image is a "
            "coarse map of codes, and a fine one that is predicted with the coarse one known.",
            tags=("vq-vae", "vq-vae-2"),
            code=CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: those of any codes, and PSNR of single levels."""
        alone = [(one.key("psnr"), one.name + " {:.2f} dB") for one in LEVELS]
        rows = held_out("PSNR of one level alone", health, shown_values(health, *alone))
        return [*super().results(metrics, health), *rows]


DECLARATION = VqVae2Declaration()
