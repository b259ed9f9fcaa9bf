"""Declaration of the prior over codes."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.autoencoders.declaration import SAMPLE_CODE, held_out, shown_values
from mae.objectives.autoencoders.discrete_declaration import entropy
from mae.objectives.declaration import Card, Chart, Curve, Declaration, Metric
from mae.objectives.prior.settings import PriorModel, prior_model

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding, RunRecord


class PriorDeclaration(Declaration):
    """Prior over codes."""

    name = "prior"
    summary = "transformer over the codes of a vqvae or fsq run, for samples and coding"
    model = PriorModel
    needs_img_size = False
    shardable = False
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "crop_pct": 1.0},
        "optim": {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.01, "warmup_epochs": 0.5},
        "train": {"epochs": 6.0, "batch_size": 64},
    }
    losses = ("codes",)
    statistics: ClassVar = {"uses": "sum"}
    metrics = (
        Metric("bits", "bits/code", ".2f"),
        Metric("bits_marginal", "by frequency", ".2f"),
    )
    charts = (
        Chart(
            "Bits per code",
            (
                Curve("bits", "training"),
                Curve("bits", "held-out", "health"),
                Curve("bits_marginal", "by frequency", "health", is_reference=True),
            ),
        ),
    )
    about_learning = (
        "Bits per code (lower is better) must be below those by frequency, which a table of how "
        "often each code occurs would reach. If training falls far below held-out, the prior "
        "overfits: stop earlier."
    )
    panels_title = "Samples"
    tag = "autoregressive"
    offers = ("samples",)

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Bits per predicted code, and the entropy of the codes' frequencies."""
        uses = statistics["uses"]
        assert isinstance(uses, list)
        return {"bits": losses["codes"] / log(2), "bits_marginal": entropy(uses) / log(2)}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        model = prior_model(config)
        if model.dim % model.num_heads:
            yield "model.dim", f"{model.dim} must be a multiple of num_heads = {model.num_heads}"
        if not model.tokenizer_config and model.tokenizer == Path():
            yield "model.tokenizer", "must name the run or plain export of a vqvae or fsq"
        if config.data.own_statistics:
            yield "data.own_statistics", "the normalisation is the tokenizer's: leave it out"

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Fill in settings and checksum of the tokenizer, and how it reads images.

        Raises UserError as `tokenizer_for`, or where it reads other channels, bits or sizes.
        """
        from mae.objectives.prior.tokenizer import tokenizer_for

        found, model = tokenizer_for(config), prior_model(config)
        theirs, ours = found.config.data, config.data
        if (theirs.in_chans, theirs.bits) != (ours.in_chans, ours.bits):
            raise UserError(
                f"model.tokenizer: {model.tokenizer} reads {theirs.in_chans} channels of "
                f"{theirs.bits} bits; set data.in_chans={theirs.in_chans} data.bits={theirs.bits}"
            )
        if ours.img_size not in (None, theirs.img_size):
            raise UserError(
                f"data.img_size: {ours.img_size} is not the {theirs.img_size} of {model.tokenizer}"
                ": leave it out"
            )
        for key in ("mean", "std"):
            if key in ours.model_fields_set and getattr(ours, key) != getattr(theirs, key):
                raise UserError(f"data.{key}: the normalisation is the tokenizer's: leave it out")
        reading = {"img_size": theirs.img_size, "mean": theirs.mean, "std": theirs.std}
        recorded = {
            "tokenizer_config": found.config.model_dump(mode="json"),
            "sha256": found.sha256,
        }
        return config.model_copy(
            update={
                "model": model.model_copy(update=recorded),
                "data": ours.model_copy(update=reading),
            }
        )

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and the tokenizer's folder, identified by sha256."""
        keys = {f"model.{key}" for key in ("tokenizer", "tokenizer_config", "sha256")}
        return keys | {f"data.{key}" for key in ("img_size", "mean", "std")}

    def diagnose(self, run: "RunRecord") -> "Iterable[Finding]":
        """Findings on bits per code: see `mae.objectives.prior.diagnosis`."""
        from mae.objectives.prior.diagnosis import diagnose

        return diagnose(run)

    def warn(self, run: "RunRecord") -> "Iterable[Finding]":
        """The same findings, while the run goes on."""
        return self.diagnose(run)

    def describe(self, config: Config, size: str) -> str:
        """Transformer and tokenizer in a few words."""
        model = prior_model(config)
        return f"{model.kind} prior {model.dim} x {model.depth} on {model.tokenizer.name}, {size}"

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run: samples, export, report."""
        return [shlex.join(["mae", "sample", str(run)]), *super().next_steps(run)]

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        model = prior_model(config)
        return Card(
            "trained as a prior over codes",
            f"{model.kind} transformer over the codes of a tokenizer",
            "A transformer over the codes of a frozen autoencoder: samples images and gives the "
            "probabilities for entropy coding. The tokenizer's weights are included.",
            task="unconditional-image-generation",
            code=SAMPLE_CODE,
        )

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card: bits per code beside those of the codes' frequencies."""
        shown = shown_values(
            health,
            ("bits", "model {:.2f}"),
            ("bits_marginal", "by frequency {:.2f}"),
            ("bits_per_pixel", "{:.3f} bits per pixel"),
        )
        return [*super().results(metrics, health), *held_out("bits per code", health, shown)]


DECLARATION = PriorDeclaration()
