"""Declaration of the sparse autoencoder."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from mae.config.sections import Config
from mae.config.types import Positive, Rate
from mae.objectives.autoencoders.declaration import (
    LATENTS_CODE,
    PSNR_CHART,
    AutoencoderDeclaration,
    AutoencoderModel,
    image_numbers,
    latent_numbers,
    no_bottleneck,
)
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card

if TYPE_CHECKING:
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


class SparseModel(AutoencoderModel):
    """Networks and sparsity of a sparse autoencoder."""

    latent_dim: Positive = 128
    """number of parts that images are combined from; few of them are active in each image"""
    sparsity: Literal["topk", "l1"] = "topk"
    """topk: all but the k largest latents are zero; l1: penalty on the size of the latents, with
    model.backbone=linear"""
    k: Positive = 8
    """topk: number of latents that are not zero"""
    aux_weight: Rate = 0.5
    """topk: weight of the auxiliary loss, by which dead latents predict what is missing"""
    aux_k: Positive = 32
    """topk: number of dead latents in the auxiliary loss"""
    dead_after: Positive = 256
    """images without a single use, after which a latent counts as dead"""
    l1_weight: Rate = 0.1
    """l1: weight of the mean absolute latent"""


def sparse_model(config: Config) -> SparseModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, SparseModel)
    return config.model


class SparseDeclaration(AutoencoderDeclaration):
    """Sparse autoencoder."""

    name = "sparse"
    summary = "sparse autoencoder: few active latents of many (Makhzani and Frey 2013)"
    model = SparseModel
    offers = ("reconstructions", "latents", "latents to decode", "sparse latents")
    losses = ("reconstruction", "sparsity")
    loss_settings = ("model.sparsity", "model.aux_weight", "model.l1_weight")
    statistics: ClassVar = {"psnr": "mean", "active_latents": "mean", "dead_latents": "mean"}
    metrics = (
        Metric("psnr", "PSNR", ".2f", tile="PSNR, dB"),
        Metric("active_latents", "active latents", ".1f"),
        Metric("dead_latents", "dead", ".0%"),
    )
    about_learning = (
        "PSNR is the mean over images, in dB, of pixels in [0, 1]; higher is better. PCA keeps as "
        "many numbers per image as latents are active (L1: as there are latents). A dead latent is "
        "one that no image uses."
    )
    charts = (
        PSNR_CHART,
        Chart(
            "Dead latents",
            (Curve("dead_latents", "training"), Curve("dead_latents", "held-out", "health")),
            is_share=True,
        ),
    )

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """PSNR, active latents per vector, share of dead latents."""
        values = {key: statistics[key] for key in ("psnr", "active_latents", "dead_latents")}
        return {key: value for key, value in values.items() if isinstance(value, float)}

    def is_regularised(self, config: Config) -> bool:
        """True where few latents are active, or their size is penalised."""
        model = sparse_model(config)
        return model.sparsity == "topk" or model.l1_weight > 0

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        yield from super().validate(config)
        model = sparse_model(config)
        if model.sparsity == "topk" and model.k >= model.latent_dim:
            yield "model.k", f"{model.k} of {model.latent_dim} latents are not sparse: choose fewer"
        numbers, whole = latent_numbers(config), image_numbers(config)
        if model.sparsity == "topk" and numbers and whole:
            active = model.k * numbers // model.latent_dim
            if active >= whole:
                yield "model.k", no_bottleneck(active, whole)
        if model.sparsity == "l1" and model.backbone != "linear":
            yield (
                "model.sparsity",
                f"l1 penalises the size of latents, which the layers of backbone {model.backbone} "
                "can undo without sparsity: use topk, or model.backbone=linear",
            )

    def cautions(self, config: Config, images: int) -> "Iterator[Finding]":
        """Findings of any autoencoder, and on settings by which latents die or count as dead."""
        from mae.objectives.sparse.diagnosis import about_rare_use, without_auxiliary_loss

        yield from super().cautions(config, images)
        model = sparse_model(config)
        if model.sparsity == "topk":
            yield from without_auxiliary_loss(model.aux_weight)
            yield from about_rare_use(model.dead_after, model.k, model.latent_dim)

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = sparse_model(config)
        rule = f"top {model.k} of {model.latent_dim}" if model.sparsity == "topk" else "L1 penalty"
        return Card(
            "trained as a sparse autoencoder",
            f"sparse latents: {rule}",
            "A sparse autoencoder (Makhzani and Frey 2013, k-sparse): each image is a combination "
            "of few of many learned parts.",
            code=LATENTS_CODE,
        )

    def diagnose(self, run: "RunRecord") -> "Iterator[Finding]":
        """Findings on dead latents: see `mae.objectives.sparse.diagnosis`."""
        from mae.objectives.sparse.diagnosis import diagnose

        yield from super().diagnose(run)
        yield from diagnose(run)


DECLARATION = SparseDeclaration()
