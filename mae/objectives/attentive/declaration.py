"""Declaration of the attentive probe: settings, metrics and texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mae.config.sections import Config
from mae.config.types import Rate, Section
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.shared_sections import FrozenModel, ProbeDeclaration


class HeadSettings(Section):
    """Training settings of one head."""

    lr: Rate = 1e-3
    """peak learning rate"""
    weight_decay: Rate = 0.1
    """decoupled weight decay of the matrices"""


class AttentiveModel(FrozenModel):
    """Frozen encoder and heads on its tokens, trained side by side."""

    heads: tuple[HeadSettings, ...] = (HeadSettings(),)
    """training settings of each head; all have the same initial weights and the same batches"""


def model_of(config: Config) -> AttentiveModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, AttentiveModel)
    return config.model


class AttentiveDeclaration(ProbeDeclaration):
    """Declaration of the attentive probe."""

    name = "attentive"
    summary = "attention pooling of frozen tokens with a learned query, then a linear classifier"
    command = "mae attentive"
    model = AttentiveModel
    losses = ("cross_entropy",)
    statistics = {"of_heads": "sum"}
    metrics = (Metric("best_loss", "best head", ".4f"), Metric("accuracy", "accuracy", ".1%"))
    charts = (
        Chart("Best head", (Curve("best_loss", "training loss"),)),
        Chart("Accuracy of the best head", (Curve("accuracy", "training"),), is_share=True),
    )

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Lowest loss and highest accuracy of the heads."""
        totals = statistics["of_heads"]
        assert isinstance(totals, list)
        *sums, count = totals
        losses_of, right_of = sums[: len(sums) // 2], sums[len(sums) // 2 :]
        finite = [loss for loss in losses_of if math.isfinite(loss)]
        return {
            "best_loss": min(finite, default=math.nan) / count,
            "accuracy": max(right_of) / count,
        }

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) where there is no head or no learning rate."""
        if not model_of(config).heads:
            yield "model.heads", "none leaves nothing to train"
        if not config.optim.lr:
            yield "optim.lr", "is what the heads' learning rates are shares of: set it above 0"

    def describe(self, config: Config, size: str) -> str:
        """Description of the heads in a few words."""
        count = len(model_of(config).heads)
        return f"{count} attentive head{'s' * (count > 1)}, {size} {self.describe_frozen(config)}"


DECLARATION = AttentiveDeclaration()
