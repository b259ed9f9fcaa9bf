"""Settings, figures and words of the paper's linear probe."""

from __future__ import annotations

from collections.abc import Mapping

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.declaration import Chart, Curve, Metric
from mae.objectives.sections import FrozenModel, ProbeDeclaration

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


class LinearProbeDeclaration(ProbeDeclaration):
    """Linear probe as the MAE paper's numbers are made."""

    name = "linear_probe"
    summary = "linear classifier behind a BatchNorm on a frozen encoder (He et al. 2021, table 10)"
    command = "mae probe"
    model = LinearProbeModel
    losses = ("cross_entropy",)
    statistics = {"right": "mean"}
    metrics = (Metric("accuracy", "accuracy", ".1%"),)
    charts = (Chart("Accuracy", (Curve("accuracy", "training"),), is_share=True),)

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Accuracy on random crops of the training images."""
        right = statistics["right"]
        assert isinstance(right, float)
        return {"accuracy": right}

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Whole groups."""
        group = model_of(config).group
        return group, f"BatchNorm needs whole groups of {group} (--step-batch, --device-batch)"

    def describe(self, config: Config, size: str) -> str:
        """The model of `size`, in a few words."""
        return f"linear classifier, {size} {self.describe_frozen(config)}"


DECLARATION = LinearProbeDeclaration()
