"""Declaration of masked autoencoding: settings, metrics and texts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mae import __version__
from mae.config.sections import Config
from mae.config.types import Fraction, Positive
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card, Declaration
from mae.objectives.shared_sections import VitModel, named_sizes, patch_count, refuse_arguments

if TYPE_CHECKING:
    from mae.base.machine import Machine
    from mae.config.choices import Choice
    from mae.data.facts import DataFacts
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


EVALUATION_NOTES = {
    "knn": "k-NN is a quick indicator for MAE, not a result: it uses the features as they are, and "
    "these are meant to be fine-tuned. Compare runs and the untrained encoder, not methods.",
    "probe": "linear separability of the classes in the frozen features. MAE's "
    "features are meant to be fine-tuned: this is a lower bound of their quality",
}


class MaeModel(VitModel):
    """Encoder of timm and decoder of a Masked Autoencoder."""

    mask_ratio: Fraction = 0.75
    """share of the patches that is hidden from the encoder"""
    norm_pix_loss: bool = True
    """predict pixels normalised within each patch"""
    decoder_embed_dim: Positive = 512
    """width of the decoder; a multiple of 4 and of decoder_num_heads"""
    decoder_depth: Positive = 8
    """number of decoder blocks"""
    decoder_num_heads: Positive = 16
    """number of attention heads in each decoder block"""
    decoder_attention: Literal["joint", "cross"] = "joint"
    """attention of the decoder: joint, all tokens to all (MAE), or cross, hidden patches to visible
    ones (CrossMAE)"""
    prediction_ratio: Fraction = 0.0
    """share of all patches that is predicted in a step, with decoder_attention=cross (0: all hidden
    ones)"""


def model_of(config: Config) -> MaeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, MaeModel)
    return config.model


MASKED = "masked autoencoding"
"""first words of the history of weights that it trained"""

PREDICTORS = (
    ("model", "r2"),
    ("interpolation", "r2_interpolation"),
    ("true patch means", "r2_patch_mean"),
)
"""(name on the model card, column of health.jsonl)"""

CARD = """\
An image encoder trained without labels (He et al. 2021, arXiv:2111.06377) by mae {version}.
It is meant for fine-tuning; frozen features of a Masked Autoencoder are weaker than its
fine-tuned ones."""


class MaeDeclaration(Declaration):
    """Masked autoencoding."""

    name = "mae"
    summary = "masked autoencoder: predicts hidden patches from visible ones (He et al. 2021)"
    model = MaeModel
    reads_floats = True
    exports: ClassVar[Mapping[str, str]] = {
        "mae": "one file in the names of the original release, for mmsegmentation and detectron2",
        "hf": "transformers' ViTMAEForPreTraining, and ViTModel in OUT/encoder; other classes of "
        "encoders as DINOv3ViTModel or HieraModel",
    }
    tag = "masked-autoencoder"
    losses = ("reconstruction",)
    loss_settings = ("model.mask_ratio", "model.patch_size", "model.norm_pix_loss", "data.img_size")
    statistics = {"target_mean": "mean", "target_square": "mean"}
    needs_img_size = False
    has_rules = True
    offers = ("patch tokens", "reconstructions")
    metrics = (Metric("r2", "R²"),)
    charts = (
        Chart(
            "R² on hidden patches",
            (
                Curve("r2", "training"),
                Curve("r2", "held-out", "health"),
                Curve("r2_interpolation", "interpolation", "health", is_reference=True),
                Curve("r2_patch_mean", "patch mean", "health", is_reference=True),
            ),
            floor=-0.25,  # the first steps are far below and would flatten everything after them
            axis_includes=-0.05,  # shows the line at 0, the result of predicting the mean
        ),
    )
    about_features = "k-NN is a quick indicator for masked autoencoders: watch its direction."
    evaluation_notes = EVALUATION_NOTES

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Compute R² = 1 - loss / variance of the target, from its first and second moments."""
        mean, square = statistics["target_mean"], statistics["target_square"]
        assert isinstance(mean, float) and isinstance(square, float)
        return {"r2": 1 - losses["reconstruction"] / max(square - mean**2, 1e-12)}

    def choose(
        self, facts: DataFacts, machine: Machine, given: Mapping[str, Any]
    ) -> Sequence[Choice]:
        """Settings for a data set on a machine: see `mae.objectives.mae.choices`."""
        from mae.objectives.mae.choices import choices

        return choices(facts, machine, given)

    def loss_definition(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Values of `loss_settings`; sizes that are not set are those in the encoder's name."""
        found = super().loss_definition(settings)
        named = named_sizes(str(settings.get("model.encoder")))
        if named is not None:
            usual = {"model.patch_size": named[0], "data.img_size": [named[1]] * 2}
            found |= {key: one for key, one in usual.items() if found[key] is None}
        return found

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings of encoder and decoder that conflict."""
        model = model_of(config)
        if model.decoder_embed_dim % 4 or model.decoder_embed_dim % model.decoder_num_heads:
            yield (
                "model.decoder_embed_dim",
                f"{model.decoder_embed_dim} must divide by 4 (sine-cosine positions) "
                f"and by decoder_num_heads = {model.decoder_num_heads}",
            )
        if model.prediction_ratio and model.decoder_attention != "cross":
            yield (
                "model.prediction_ratio",
                "is for model.decoder_attention=cross: hidden patches that attend to each other "
                "are predicted together",
            )
        yield from refuse_arguments(model)

    def describe(self, config: Config, size: str) -> str:
        """Description of the model in a few words: encoder and size."""
        return f"{model_of(config).encoder}, {size} with the decoder"

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run: export, fine-tuning, report."""
        export, report = super().next_steps(run)
        finetune = shlex.join(["mae", "finetune", str(run)])
        return [export, f"{finetune} …  (where there are labels)", report]

    def history(self, config: Config) -> str:
        """Training in a few words, for the cards of models that start from its weights."""
        model = model_of(config)
        target = "pixels normalised per patch" if model.norm_pix_loss else "pixels"
        return f"{MASKED} (mask ratio {model.mask_ratio}, {target})"

    def has_trained(self, init: Mapping[str, Any]) -> bool:
        """True for weights of a run with this objective, and for those of the paper's release."""
        from mae.pretrained_weights.licence import PAPERS_RELEASE

        is_of_paper = PAPERS_RELEASE.search(str(init.get("from"))) is not None
        return MASKED in str(init.get("history")) or is_of_paper

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card: mask ratio and target."""
        model = model_of(config)
        target = "pixels normalised per patch" if model.norm_pix_loss else "pixels"
        return Card(
            "pretrained as a Masked Autoencoder",
            f"mask ratio {model.mask_ratio}, predicts {target}",
            CARD.format(version=__version__),
            tags=("self-supervised",),
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: loss, and R² beside that of trivial predictors."""
        results = super().results(metrics, health)
        if "r2" in health:
            values = [(name, health.get(key)) for name, key in PREDICTORS]
            shown = [f"{name} {r2:.3f}" for name, r2 in values if isinstance(r2, int | float)]
            images = f"{health['images']:,} held-out images, step {health['step']:,}"
            results.append((f"R² on hidden patches of {images}", ", ".join(shown)))
        return results

    def cautions(self, config: Config, images: int) -> Iterable[Finding]:
        """Findings on the mask: see `mae.objectives.mae.diagnosis`."""
        from mae.objectives.mae.diagnosis import about_mask_ratio

        model = model_of(config)
        return about_mask_ratio(model.mask_ratio, patch_count(model, config.data.img_size))

    def fewest_steps(self, config: Config) -> int:
        """1,000 for small encoders (the demo has 1,216), 4,000 from ViT-S on."""
        model = model_of(config)
        is_small = "_tiny_" in model.encoder or "embed_dim" in model.encoder_kwargs
        return 1000 if is_small else 4000

    def diagnose(self, run: RunRecord) -> Iterable[Finding]:
        """Findings on R²: see `mae.objectives.mae.diagnosis`."""
        from mae.objectives.mae.diagnosis import diagnose

        return diagnose(run)

    def warn(self, run: RunRecord) -> Iterable[Finding]:
        """Findings on targets that teach little, once enough of the run is done."""
        from mae.objectives.mae.diagnosis import about_targets

        return about_targets(run)


DECLARATION = MaeDeclaration()
