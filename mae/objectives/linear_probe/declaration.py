"""Settings, figures and words of the paper's linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mae.config import Config
from mae.objectives.declaration import Chart, Curve, Declaration, Metric
from mae.objectives.frozen_section import MEASURED, FrozenModel, with_classes
from mae.section import Positive

if TYPE_CHECKING:
    from mae.data.manifest import Manifest

GROUP = 512
"""images that the authors' BatchNorm normalises together: those of one GPU"""


class LinearProbeModel(FrozenModel):
    """A frozen encoder, BatchNorm without weights, a linear classifier."""

    group: Positive = GROUP
    """images that BatchNorm normalises together, on any number of processes"""


def model_of(config: Config) -> LinearProbeModel:
    """The section `model:` of a run with this objective."""
    assert isinstance(config.model, LinearProbeModel)
    return config.model


class LinearProbeDeclaration(Declaration):
    """Linear probe as the MAE paper's numbers are made."""

    name = "linear_probe"
    summary = "linear classifier behind a BatchNorm on a frozen encoder (He et al. 2021, table 10)"
    command = "mae probe"
    model = LinearProbeModel
    losses = ("cross_entropy",)
    statistics = {"right": "mean"}
    metrics = (Metric("accuracy", "accuracy", ".1%"),)
    charts = (Chart("Accuracy", (Curve("accuracy", "training"),), is_share=True),)
    needs_img_size = False
    needs_labels = True
    is_probe = True
    panels = ""

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Accuracy on random crops of the training images."""
        right = statistics["right"]
        assert isinstance(right, float)
        return {"accuracy": right}

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Settings with the classes of the training data."""
        return config.model_copy(update={"model": with_classes(model_of(config), manifest)})

    def measured(self, config: Config) -> set[str]:
        """Settings that do not decide by themselves."""
        return MEASURED

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Whole groups."""
        group = model_of(config).group
        return group, f"BatchNorm needs whole groups of {group} (--step-batch, --device-batch)"

    def describe(self, config: Config, size: str) -> str:
        """The model of `size`, in a few words."""
        model = model_of(config)
        frozen = f"{model.encoder}{' untrained' * model.untrained}"
        return f"linear classifier, {size} for {model.classes} classes, on {frozen}, frozen"

    def next_steps(self, run: Path) -> list[str]:
        """None: the command that trains it tests it, too."""
        return []

    def history(self, config: Config) -> str:
        """The objective in a few words, for the model cards of what starts from its weights."""
        return f"a linear probe of {model_of(config).classes} classes"


DECLARATION = LinearProbeDeclaration()
