"""Declaration of the paper's linear probe: settings, metrics and texts."""

from __future__ import annotations

from collections.abc import Mapping

from mae.config.sections import Config
from mae.config.types import Positive
from mae.objectives.charts import Chart, Curve, Metric
from mae.objectives.shared_sections import FrozenModel, ProbeDeclaration

GROUP = 512
"""number of images that BatchNorm normalises together in the released code: those of one GPU"""


class LinearProbeModel(FrozenModel):
    """Frozen encoder, BatchNorm without weights, linear classifier."""

    group: Positive = GROUP
    """number of images that BatchNorm normalises together, on any number of processes"""


def model_of(config: Config) -> LinearProbeModel:
    """Section `model:` of a run with this objective."""
    assert isinstance(config.model, LinearProbeModel)
    return config.model


class LinearProbeDeclaration(ProbeDeclaration):
    """Declaration of the paper's linear probe."""

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
        """Whole groups of BatchNorm."""
        group = model_of(config).group
        return group, f"BatchNorm needs whole groups of {group} (--step-batch, --device-batch)"

    def describe(self, config: Config, size: str) -> str:
        """Description of the probe in a few words."""
        return f"linear classifier, {size} {self.describe_frozen(config)}"


DECLARATION = LinearProbeDeclaration()
