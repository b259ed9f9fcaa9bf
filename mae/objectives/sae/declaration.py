"""Declaration of the sparse autoencoder on tokens of a frozen encoder."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mae.config.sections import Config
from mae.config.types import Fraction, NonNegative, Positive, Rate, Section, Text
from mae.objectives.autoencoders.declaration import held_out, shown_values
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card, Declaration

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

LATENTS_CODE = """\
tokens = objective.tokens(images)  # [1, patches, width]
latents = objective.dictionary.latents(tokens)  # [1, patches, latents], few of them not zero
again = objective.dictionary.decode(latents)  # the tokens, reconstructed
"""


class SaeModel(Section):
    """Frozen encoder, and the sparse autoencoder on its patch tokens."""

    encoder: Path = Path()
    """run, checkpoint, export, file of weights, timm:NAME or hf:ID of the encoder; read when the
    run starts"""
    sha256: Text = ""
    """checksum of the encoder's weights, filled in at the start"""
    untrained: bool = False
    """use freshly initialised weights of the encoder's architecture, as a baseline"""
    layer: NonNegative = 0
    """tokens after this block, counted from 1, before the final norm (0: the encoder's last tokens,
    after the final norm)"""
    expansion: Positive = 8
    """number of latents, as a multiple of the width of a token"""
    k: Positive = 32
    """mean number of latents per token that are not zero in training"""
    group: Positive = 8
    """images that share their k latents per token (BatchTopK), on any number of processes"""
    aux_weight: Rate = 1 / 32
    """weight of the auxiliary loss, by which dead latents predict what is missing"""
    aux_k: NonNegative = 0
    """dead latents per token in the auxiliary loss (0: half the width of a token)"""
    dead_after: Positive = 100_000
    """tokens without a single use, after which a latent counts as dead"""
    threshold_decay: Fraction = 0.9
    """decay per step of the moving average of the threshold that replaces BatchTopK after
    training"""


def sae_model(config: Config) -> SaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, SaeModel)
    return config.model


class SaeDeclaration(Declaration):
    """Sparse autoencoder on tokens."""

    name = "sae"
    summary = "sparse autoencoder on patch tokens of a frozen encoder (BatchTopK)"
    model = SaeModel
    first_stage = "encoder"
    needs_img_size = False
    shardable = False
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "crop_pct": 1.0},
        "optim": {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0, "warmup_epochs": 0.1},
        "train": {"epochs": 2.0, "batch_size": 64},
    }
    losses = ("reconstruction", "dead")
    loss_settings = ("model.sha256", "model.layer", "model.aux_weight")
    statistics: ClassVar = {
        "tokens": "sum",
        "errors": "sum",
        "sums": "sum",
        "squares": "sum",
        "active": "sum",
        "dead_latents": "mean",
    }
    metrics = (
        Metric("explained", "explained", ".1%", tile="explained variance"),
        Metric("active_latents", "active latents", ".1f"),
        Metric("dead_latents", "dead", ".0%"),
    )
    charts = (
        Chart(
            "Explained variance of the tokens",
            (
                Curve("explained", "training"),
                Curve("explained", "held-out", "health"),
                Curve("explained_topk_pca", "top-k PCA", "health", is_reference=True),
                Curve("explained_pca", "PCA", "health", is_reference=True),
            ),
            is_share=True,
        ),
        Chart(
            "Dead latents",
            (Curve("dead_latents", "training"), Curve("dead_latents", "held-out", "health")),
            is_share=True,
        ),
    )
    about_learning = (
        "Explained variance is the share of the tokens' variance that their reconstruction keeps. "
        "PCA has as many numbers per token as latents are active; top-k PCA keeps that many of all "
        "components, other ones for each token. A dead latent is one that no token uses."
    )
    offers = ("sparse latents",)
    panels_title = "Latents"
    tag = "sparse-autoencoder"
    exports: ClassVar[Mapping[str, str]] = {
        "saelens": "weights and settings for SAELens, as a JumpReLU autoencoder",
    }

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Explained variance, active latents per token, share of dead latents."""
        tokens, errors, squares, active, dead = (
            _number(statistics[key])
            for key in ("tokens", "errors", "squares", "active", "dead_latents")
        )
        sums = statistics["sums"]
        assert isinstance(sums, list)
        if not tokens:  # the first step only measures the tokens
            return {"explained": 0.0, "active_latents": 0.0, "dead_latents": dead}
        variance = squares - sum(one * one for one in sums) / tokens
        return {
            "explained": 1 - errors / variance if variance > 0 else 0.0,
            "active_latents": active / tokens,
            "dead_latents": dead,
        }

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        model = sae_model(config)
        if model.encoder == Path():
            yield "model.encoder", "must name a run, an export, timm:NAME or hf:ID"
        if config.train.batch_size % model.group:
            yield (
                "model.group",
                f"{model.group} images do not divide train.batch_size = {config.train.batch_size}",
            )
        if config.data.own_statistics:
            yield "data.own_statistics", "the normalisation is the encoder's: leave it out"
        if config.train.ema:
            yield (
                "train.ema",
                "the threshold follows the current weights, and would not fit averaged ones; leave "
                "it 0",
            )

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Whole groups of BatchTopK."""
        group = sae_model(config).group
        return group, f"BatchTopK needs whole groups of model.group = {group} images"

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Fill in checksum of the encoder, and how it reads images.

        Raises UserError as `complete_first_stage` and `read_as`.
        """
        from mae.objectives.two_stage import complete_first_stage, read_as

        config, encoder = complete_first_stage(config)
        return read_as(config, encoder)

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and the encoder's folder, identified by sha256."""
        return {"model.encoder", "model.sha256", "data.img_size", "data.mean", "data.std"}

    def trains_vit(self, config: Config) -> bool:
        """False: the encoder is frozen."""
        return False

    def cautions(self, config: Config, images: int) -> "Iterable[Finding]":
        """Finding on latents that nothing brings back: see `mae.objectives.sae.diagnosis`."""
        from mae.objectives.sae.diagnosis import without_auxiliary_loss

        return without_auxiliary_loss(sae_model(config).aux_weight)

    def diagnose(self, run: "RunRecord") -> "Iterable[Finding]":
        """Findings on dead latents and explained variance: see `mae.objectives.sae.diagnosis`."""
        from mae.objectives.sae.diagnosis import diagnose

        return diagnose(run)

    def warn(self, run: "RunRecord") -> "Iterable[Finding]":
        """The same findings, while the run goes on."""
        return self.diagnose(run)

    def describe(self, config: Config, size: str) -> str:
        """Sparsity, encoder and layer in a few words."""
        model = sae_model(config)
        layer = f" block {model.layer}" if model.layer else ""
        return (
            f"{self.name}, {model.expansion} latents per dimension, {model.k} active, on tokens of "
            f"{model.encoder.name}{layer}{' untrained' * model.untrained}, {size}"
        )

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = sae_model(config)
        layer = f"block {model.layer}" if model.layer else "last layer"
        return Card(
            "trained as a sparse autoencoder of tokens",
            f"BatchTopK, {model.expansion} latents per dimension, {model.k} active, on the {layer}",
            "A sparse autoencoder (BatchTopK, Bussmann et al. 2024) of patch tokens of a frozen "
            "encoder: each token is a sum of few of many learned directions. After training a "
            "fixed threshold decides which latents are active.",
            task="feature-extraction",
            code=LATENTS_CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: explained variance beside PCA's."""
        shown = shown_values(
            health,
            ("explained", "model {:.1%}"),
            ("active_latents", "with {:.1f} active latents"),
            ("explained_topk_pca", "top-k PCA {:.1%}"),
            ("explained_pca", "PCA {:.1%}"),
            ("dead_latents", "{:.1%} of the latents dead"),
        )
        rows = held_out("explained variance", health, shown)
        return [*super().results(metrics, health), *rows]


def _number(value: float | list[float]) -> float:
    """A statistic without dimensions."""
    assert not isinstance(value, list)
    return value


DECLARATION = SaeDeclaration()
