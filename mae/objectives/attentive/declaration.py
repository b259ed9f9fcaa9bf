"""Settings, figures and words of the attentive probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mae.config import Config
from mae.objectives.declaration import Chart, Curve, Declaration, Metric
from mae.objectives.frozen_section import MEASURED, FrozenModel, with_classes
from mae.section import Rate, Section

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


class Choice(Section):
    """Training settings of one head."""

    lr: Rate = 1e-3
    """peak of its learning rate"""
    weight_decay: Rate = 0.1
    """decoupled, of its matrices"""


class AttentiveModel(FrozenModel):
    """A frozen encoder, and heads on its tokens that are trained side by side."""

    heads: tuple[Choice, ...] = (Choice(),)
    """settings of each head; all begin at the same weights and see the same batches"""


def model_of(config: Config) -> AttentiveModel:
    """The section `model:` of a run with this objective."""
    assert isinstance(config.model, AttentiveModel)
    return config.model


class AttentiveDeclaration(Declaration):
    """Attentive probe."""

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
    needs_img_size = False
    needs_labels = True
    is_probe = True
    panels = ""

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """The lowest loss and the highest accuracy of all heads."""
        totals = statistics["of_heads"]
        assert isinstance(totals, list)
        *sums, count = totals
        half = len(sums) // 2
        return {"best_loss": min(sums[:half]) / count, "accuracy": max(sums[half:]) / count}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """(key, message) of settings that do not go together."""
        if not model_of(config).heads:
            yield "model.heads", "none leaves nothing to train"
        if not config.optim.lr:
            yield "optim.lr", "is what the heads' learning rates are shares of: set it above 0"

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Settings with the classes of the training data."""
        return config.model_copy(update={"model": with_classes(model_of(config), manifest)})

    def measured(self, config: Config) -> set[str]:
        """Settings that do not decide by themselves."""
        return MEASURED

    def describe(self, config: Config, size: str) -> str:
        """The model of `size`, in a few words."""
        model = model_of(config)
        frozen = f"{model.encoder}{' untrained' * model.untrained}"
        heads = f"{len(model.heads)} attentive head{'s' * (len(model.heads) > 1)}"
        return f"{heads}, {size} for {model.classes} classes, on {frozen}, frozen"

    def next_steps(self, run: Path) -> list[str]:
        """None: the command that trains it tests it, too."""
        return []

    def history(self, config: Config) -> str:
        """The objective in a few words, for the model cards of what starts from its weights."""
        return f"an attentive probe of {model_of(config).classes} classes"


DECLARATION = AttentiveDeclaration()
