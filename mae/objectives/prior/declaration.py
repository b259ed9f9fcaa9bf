"""Declaration of the prior over codes."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.autoencoders.declaration import SAMPLE_CODE, held_out, shown_values
from mae.objectives.autoencoders.discrete_declaration import entropy
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.declaration import Card, Declaration
from mae.objectives.prior.settings import PriorModel, is_tokenizer, prior_model

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord


def marginal_bits(uses: Sequence[float], levels: int) -> float:
    """Entropy of the codes' frequencies in bits per code, from their uses level by level."""
    size = len(uses) // levels
    parts = [uses[start : start + size] for start in range(0, len(uses), size)]
    total = sum(uses)
    return sum(sum(one) / total * entropy(one) for one in parts if total) / log(2)


class PriorDeclaration(Declaration):
    """Prior over codes."""

    name = "prior"
    summary = "transformer over the codes of a vqvae, vqvae2 or fsq run, for samples and coding"
    model = PriorModel
    needs_img_size = False
    first_stage = "tokenizer"
    shardable = False
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "crop_pct": 1.0},
        "optim": {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.01, "warmup_epochs": 0.5},
        "train": {"epochs": 6.0, "batch_size": 64},
    }
    losses = ("codes",)
    loss_settings = ("model.sha256", "model.kind")
    statistics: ClassVar = {"uses": "sum", "level_nats": "sum", "level_codes": "sum"}
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
    offers = ("samples", "codes")
    trivial_samples = "codes by frequency"

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Bits per predicted code, and the entropy of the codes' frequencies."""
        uses, levels = statistics["uses"], statistics["level_codes"]
        assert isinstance(uses, list) and isinstance(levels, list)
        marginal = marginal_bits(uses, len(levels))
        return {"bits": losses["codes"] / log(2), "bits_marginal": marginal}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for settings that conflict."""
        model = prior_model(config)
        if model.dim % model.num_heads:
            yield "model.dim", f"{model.dim} must be a multiple of num_heads = {model.num_heads}"
        if model.tokenizer == Path():
            yield "model.tokenizer", "must name the run or plain export of a vqvae, vqvae2 or fsq"
        if config.data.own_statistics:
            yield "data.own_statistics", "the normalisation is the tokenizer's: leave it out"

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Fill in the tokenizer's checksum, and how it reads images.

        Raises UserError as `complete_first_stage` and `read_as`, or where it has no codes.
        """
        from mae.objectives.two_stage import complete_first_stage, read_as

        config, tokenizer = complete_first_stage(config)
        if not is_tokenizer(tokenizer):
            raise UserError(
                f"model.tokenizer: {prior_model(config).tokenizer} is of objective "
                f"{tokenizer.objective}, which has no codes: give a run of vqvae, vqvae2 or fsq"
            )
        return read_as(config, tokenizer)

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and the tokenizer's folder, identified by sha256."""
        keys = {"model.tokenizer", "model.sha256"}
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
