"""Declaration of an objective: settings, figures and words, known before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from mae import __version__
from mae.base.errors import UserError
from mae.config.types import Section

if TYPE_CHECKING:
    from mae.config.sections import Config
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding, Recorded

Kind = Literal["mean", "sum"]
"""how a statistic is merged: over the samples of a report, averaged or added up"""


class Metric(NamedTuple):
    """A figure of the training images: a column of metrics.jsonl.

    Where health.jsonl has a column of the same name, that is the figure of the held-out images.
    """

    key: str
    label: str
    """on the progress line and in the report"""
    format: str = ".3f"
    """Python's, as in format(value, ".1%")"""
    in_line: bool = True
    """shown on the progress line and, if no chart has it, on a chart of its own"""
    tile: str = ""
    """label at the head of the report, where it is not `label`"""


class Curve(NamedTuple):
    """A line of a chart."""

    key: str
    label: str
    source: Literal["metrics", "health"] = "metrics"
    """file of the run that has the column: training images, or held-out ones"""
    is_reference: bool = False
    """drawn thin and grey: what the other lines are compared with"""
    interval: str = ""
    """column with the low and the high end of each value, drawn as a band"""


class Level(NamedTuple):
    """A constant line of a chart, such as chance."""

    label: str
    value: Callable[[Recorded], float | None]
    """None: there is no such line"""


class Chart(NamedTuple):
    """A chart of the report, over optimizer steps."""

    title: str
    curves: Sequence[Curve]
    lowest: float | None = None
    """values below are drawn here"""
    always: float | None = None
    """the axis reaches this value at least"""
    is_share: bool = False
    """values from 0 to 1, shown in percent, on an axis that begins at 0"""
    is_log: bool = False
    """the axis is logarithmic, where that helps"""
    cuts_spikes: bool = False
    """the few highest values, and those of early warm-up, do not stretch the axis"""
    levels: Sequence[Level] = ()


LOSS = Chart(
    "Loss",
    (Curve("loss", "loss"), Curve("loss", "held-out", "health")),
    is_log=True,
    cuts_spikes=True,
)


class Card(NamedTuple):
    """An objective's part of a model card."""

    heading: str
    """after the model's name, in the card's first line"""
    objective: str
    """a line of the table"""
    text: str = ""
    """below the heading"""
    task: str = "image-feature-extraction"
    """as model hubs name it"""
    tags: Sequence[str] = ()
    """for model hubs, besides `Declaration.tag`"""


class Declaration:
    """An objective's settings, figures, demands and words; `Implementation` is its other half."""

    name: ClassVar[str]
    """in `objective: NAME`"""
    summary: ClassVar[str]
    """a line for --help"""
    command: ClassVar[str] = "mae pretrain"
    """trains it"""

    model: ClassVar[type[Section]]
    """type of the section `model:`"""
    section: ClassVar[tuple[str, type[Section]] | None] = None
    """name and type of one further section of its own"""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """settings of the core's sections that are others than the core's own, by section"""
    moved: ClassVar[Mapping[str, str]] = {}
    """keys of its own in earlier versions, and what they are today"""

    losses: ClassVar[Sequence[str]]
    """names of `Output.losses`; where there are several, metrics.jsonl has `loss_NAME` of each"""
    statistics: ClassVar[Mapping[str, Kind]] = {}
    """names of `Output.statistics`"""
    metrics: ClassVar[Sequence[Metric]] = ()
    """columns that `figures` computes from these"""
    watched: ClassVar[str | None] = None
    """the loss that the guard looks at for spikes; None: their sum"""
    loss_chart: ClassVar[Chart] = LOSS
    """of the report, for the sum of the losses"""
    charts: ClassVar[Sequence[Chart]] = ()
    """of the report, besides those of every run"""
    about_learning: ClassVar[str] = ""
    """for readers of the report: over the charts of losses and metrics"""
    about_features: ClassVar[str] = ""
    """for readers of the report: over the charts of the features' health"""
    panels: ClassVar[str] = "Reconstructions"
    """heading of the report's panels; "": it draws none"""
    needs_img_size: ClassVar[bool] = True
    """data.img_size must be set; False: its encoder has a size of its own"""
    needs_labels: ClassVar[bool] = False
    """every sample has a class"""
    supervises_encoder: ClassVar[bool] = False
    """its encoder learns from labels, too: features and reports call it fine-tuned"""
    is_probe: ClassVar[bool] = False
    """measures a frozen encoder, which stays where it is: there is nothing to export"""
    offers: ClassVar[Sequence[str]] = ()
    """for messages: what commands ask for and it has, such as patch tokens"""
    measures: ClassVar[Mapping[str, str]] = {}
    """meaning of `mae knn` and `mae probe` on its features, by command, where the usual words do
    not fit"""
    exports: ClassVar[Mapping[str, str]] = {}
    """format of `mae export` that no other objective has → its description, for --help"""
    tag: ClassVar[str | None] = None
    """for model hubs: of models that it trained, and of those that started from their weights"""

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """The values of `metrics`, from means and sums over many micro-batches."""
        return {}

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """(key, message) of settings that do not go together."""
        yield from ()

    def settings(self, source: Path, overrides: Sequence[str]) -> Config:
        """Settings of a run that goes on from another run, or from a YAML file, by a recipe.

        For objectives that `mae pretrain` does not train.  Raises UserError.
        """
        raise UserError(f"{source}: {self.command} takes no run to go on from")

    def describe_recipe(self) -> str:
        """The recipe of `settings`, for --help."""
        return ""

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Settings with what the training data says; UserError where it does not fit."""
        return config

    def measured(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and a person may leave open when a run is resumed."""
        return set()

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Number that divides each process's images at a time, and the reason for messages."""
        return 1, ""

    def augmentation(self, config: Config, img_size: tuple[int, int]) -> Callable[..., Any] | None:
        """Further augmentation of crops in the data workers: (crop [c h w], key) → crop."""
        return None

    def keep(self, config: Config, run: Path) -> None:
        """Write what the folder of a new run needs besides its settings."""

    def describe(self, config: Config, size: str) -> str:
        """The model of `size` (12.3 M parameters), in a few words."""
        return f"{self.name}, {size}"

    def next_steps(self, run: Path) -> list[str]:
        """Commands that follow a finished run."""
        return [f"mae export {run} {run}/export", f"mae report {run}"]

    def history(self, config: Config) -> str:
        """The objective in a few words, for the model cards of what starts from its weights."""
        return self.name

    def is_in(self, init: Mapping[str, Any]) -> bool:
        """True where it trained the weights that a run with this init.json started from."""
        return False

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """The model card's words on this model and its training."""
        text = f"{self.summary[0].upper()}{self.summary[1:]}."
        return Card(f"trained by mae {__version__}", self.summary, text)

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """(figure, value) for the model card, of the last rows of metrics.jsonl and health.jsonl.

        Either may be empty, and lack any column.
        """
        if "loss" not in metrics:
            return []
        values = [f"{metrics['loss']:.4f}"]
        for metric in self.metrics:
            if metric.in_line and isinstance(value := metrics.get(metric.key), int | float):
                values.append(f"{metric.label} {value:{metric.format}}")
        return [(f"training loss, step {metrics['step']:,}", ", ".join(values))]

    def diagnose(self, run: Recorded) -> Iterable[Finding]:
        """Findings on a run, besides those on any run's loss, features, steps and speed."""
        return ()
