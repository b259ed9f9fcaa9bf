"""Contract of an objective, the half without torch: settings, metrics, charts and texts.

An objective is a package with two modules, named in `mae.objectives.registry`:

- `declaration` with `DECLARATION`, an instance of a subclass of `Declaration` (this module).  It
  imports no torch, so that help, wrong use and the report stay light.
- `implementation` with `IMPLEMENTATION`, an instance of a subclass of
  `mae.objectives.implementation.Implementation`, which builds the `mae.objectives.base.Objective`.

Everything that differs between objectives is declared here and read by the core: no other module
asks which objective it runs.  Required are `name`, `summary`, `model` and `losses`; everything else
has a default.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from mae import __version__
from mae.base.errors import UserError
from mae.config.types import Section
from mae.objectives.charts import LOSS, Chart, Metric

if TYPE_CHECKING:
    from mae.base.machine import Machine
    from mae.config.choices import Choice
    from mae.config.sections import Config
    from mae.data.facts import DataFacts
    from mae.data.manifest import Manifest
    from mae.evaluation.diagnosis import Finding
    from mae.evaluation.run_record import RunRecord

Kind = Literal["mean", "sum"]
"""reduction of a statistic over the micro-batches between two rows of metrics.jsonl"""


class DataNeeds(NamedTuple):
    """Requirements of an objective on its images."""

    native_crops: bool = False
    """crops of data.img_size are cut out without resampling, in training and evaluation"""
    quarter_turns: bool = False
    """training crops are turned by a random number of quarter turns"""
    lossless: bool = False
    """JPEG and other lossy files are refused: their compression changes the noise"""
    pairs: Literal["none", "references", "targets"] = "none"
    """images KEY.a and KEY.b are one sample, two pictures of a scene, stacked along the channels.
    references: b is read in evaluation alone, where there are any; targets: in training, too, and
    every sample must have one"""


class Card(NamedTuple):
    """Objective's part of a model card."""

    heading: str
    """rest of the card's first line, after the model's name"""
    objective: str
    """entry "objective" of the card's table"""
    text: str = ""
    """paragraph below the heading"""
    task: str = "image-feature-extraction"
    """pipeline tag of model hubs"""
    tags: Sequence[str] = ()
    """further tags for model hubs, besides `Declaration.tag`"""
    code: str = ""
    """further lines of Python below those that load a plain export and compute its features"""


class Declaration:
    """Settings, metrics, data requirements and texts of an objective.

    Methods with `config` get the complete settings of a run, with the sections `model` and
    `section` of this objective.
    """

    # Name and settings

    name: ClassVar[str]
    """value of the setting `objective:`"""
    summary: ClassVar[str]
    """description in one line, for --help and the model card"""
    command: ClassVar[str] = "mae pretrain"
    """command that trains it"""
    model: ClassVar[type[Section]]
    """type of the section `model:`"""
    section: ClassVar[tuple[str, type[Section]] | None] = None
    """name and type of one further section of its own"""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """defaults that differ from the core's, by section and key"""
    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """keys of earlier versions → their names today, as section.key"""

    # Numbers of training

    losses: ClassVar[Sequence[str]]
    """keys of `Output.losses`; where there are several, metrics.jsonl has `loss_KEY` of each"""
    statistics: ClassVar[Mapping[str, Kind]] = {}
    """keys of `Output.statistics`, and how each is merged over micro-batches: mean or sum"""
    metrics: ClassVar[Sequence[Metric]] = ()
    """columns of metrics.jsonl, computed by `figures` from losses and statistics"""
    loss_settings: ClassVar[Sequence[str]] = ()
    """settings (section.key) that define what the loss measures, or scale it: the losses of runs
    that differ in one do not compare"""
    guarded_loss: ClassVar[str | None] = None
    """the loss that the guard watches for spikes, a key of `losses` (None: their sum)"""

    # Requirements

    needs_img_size: ClassVar[bool] = True
    """data.img_size must be set (False: the encoder has a size of its own)"""
    reads_floats: ClassVar[bool] = False
    """arrays of floats (data.bits=32) can be its images: models and figures then compute with them
    normalised by data.mean and data.std, and never clip"""
    needs_labels: ClassVar[bool] = False
    """every sample needs a class"""
    supervises_encoder: ClassVar[bool] = False
    """labels train the encoder: reports call its features fine-tuned"""
    is_probe: ClassVar[bool] = False
    """evaluates a frozen encoder: there is nothing to export"""

    first_stage: ClassVar[str] = ""
    """key in `model:` that names the source of a frozen first stage; a run keeps a copy of it, with
    which the source is no longer needed ("": the objective has one stage)"""
    shardable: ClassVar[bool] = True
    """weights can be sharded over processes (FSDP2)"""

    has_rules: ClassVar[bool] = False
    """settings can be chosen from images and machine: `choose`"""

    # Report, messages and model card

    loss_chart: ClassVar[Chart] = LOSS
    """chart of the sum of the losses"""
    charts: ClassVar[Sequence[Chart]] = ()
    """further charts, besides those of every run"""
    about_learning: ClassVar[str] = ""
    """introduction to the report's charts of losses and metrics"""
    about_features: ClassVar[str] = ""
    """introduction to the report's charts of feature health"""
    panels_title: ClassVar[str] = "Reconstructions"
    """title of the report's section of panels ("": the objective draws none)"""
    offers: ClassVar[Sequence[str]] = ()
    """optional capabilities in words, such as "patch tokens", for messages of commands that need
    them"""
    trivial_samples: ClassVar[str] = ""
    """name of the trivial model of the capability `trivial_samples`, for tables"""
    evaluation_notes: ClassVar[Mapping[str, str]] = {}
    """meaning of the figures of `mae knn` and `mae probe` on its features, by command (default: the
    commands' own words)"""
    exports: ClassVar[Mapping[str, str]] = {}
    """formats of `mae export` that only this objective has → description, for --help"""
    tag: ClassVar[str | None] = None
    """tag on model hubs, for models trained by it and models that started from their weights"""

    def figures(
        self, losses: Mapping[str, float], statistics: Mapping[str, float | list[float]]
    ) -> dict[str, float]:
        """Compute `metrics` from losses and statistics that are merged over micro-batches.

        `losses` are means, `statistics` means or sums as declared (a list: values of a tensor).
        """
        return {}

    def loss_definition(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Values of `loss_settings` in the settings of a run, by section.key; None: unknown."""
        return {key: settings.get(key) for key in self.loss_settings}

    def choose(
        self, facts: DataFacts, machine: Machine, given: Mapping[str, Any]
    ) -> Sequence[Choice]:
        """Settings for a data set on a machine, for `mae pretrain auto`; `has_rules` is set.

        `given`: settings of the user as section.key → value.  They are among the choices in place
        of chosen ones, and what depends on them follows.
        """
        raise NotImplementedError

    def validate(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for each setting that is wrong or conflicts with another."""
        yield from ()

    def settings_from(
        self,
        source: str | Path,
        words: Sequence[str],
        count: Callable[[Config], int] | None = None,
    ) -> Config:
        """Settings of a run by this objective's recipe, from a run folder or another recipe.

        For objectives that `mae pretrain` does not train; `words` are section.key=value, before
        them perhaps a recipe to apply to a run folder.  `count` returns the number of training
        images, to which the objective's recipe is adapted where `source` is a run; None: it is not.
        Raises UserError where `source` cannot be used.
        """
        raise UserError(f"{source}: {self.command} takes no run to go on from")

    def describe_recipe(self) -> str:
        """Recipe of `settings_from`, for --help."""
        return ""

    def complete(self, config: Config, manifest: Manifest) -> Config:
        """Fill in settings that follow from the training data, such as the number of classes.

        Raises UserError where data and settings do not fit.
        """
        return config

    def completed_keys(self, config: Config) -> set[str]:
        """Keys (section.key) that `complete` fills in: they may stay open when a run is resumed."""
        return set()

    def batch_multiple(self, config: Config) -> tuple[int, str]:
        """Required divisor of the micro-batch size, and the reason, for messages."""
        return 1, ""

    def data_needs(self, config: Config) -> DataNeeds:
        """Requirements on the images (default: none)."""
        return DataNeeds()

    def augmentation(self, config: Config, img_size: tuple[int, int]) -> Callable[..., Any] | None:
        """Further augmentation in the data workers, (crop [c h w], key) → crop; None: no more."""
        return None

    def trains_vit(self, config: Config) -> bool:
        """True where a section of type VitModel describes an encoder that is trained."""
        return True

    def why_no_samples(self, config: Config) -> str:
        """Reason why samples of a run would be noise; empty: they are not."""
        return ""

    def latent_path(self, config: Config) -> Literal["line", "sphere"]:
        """Path between the latents of two images on which further images lie.

        For objectives with `latents` and `decode`.  sphere: the latents follow N(0, 1) in many
        dimensions, where draws lie near a sphere; a straight line leaves it (White 2016,
        arXiv:1609.04468, section 2).
        """
        return "line"

    def why_no_path(self, config: Config) -> str:
        """Reason why latents between or beside those of images are no images; empty: they are."""
        return ""

    def describe(self, config: Config, size: str) -> str:
        """Description of the model in a few words; `size` is the text "12.3 M parameters"."""
        return f"{self.name}, {size}"

    def next_steps(self, run: Path) -> list[str]:
        """Commands to suggest after a finished run."""
        folder = str(run)
        return [
            shlex.join(["mae", "export", folder, f"{folder}/export"]),
            shlex.join(["mae", "report", folder]),
        ]

    def history(self, config: Config) -> str:
        """Training in a few words, for the cards of models that start from its weights."""
        return self.name

    def has_trained(self, init: Mapping[str, Any]) -> bool:
        """True if it trained the weights that a run started from; `init` is the run's init.json."""
        return False

    def card(self, config: Config, is_from_scratch: bool) -> Card:
        """Objective's part of the model card."""
        text = f"{self.summary[0].upper()}{self.summary[1:]}."
        return Card(f"trained by mae {__version__}", self.summary, text)

    def results(
        self, metrics: Mapping[str, Any], health: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """Results for the model card, as (label, value).

        `metrics` and `health` are the last rows of metrics.jsonl and health.jsonl; either may be
        empty or lack any column.
        """
        if "loss" not in metrics:
            return []
        values = [f"{metrics['loss']:.4f}"]
        for metric in self.metrics:
            value = metrics.get(metric.key)
            if metric.on_progress_line and isinstance(value, int | float):
                values.append(f"{metric.label} {value:{metric.format}}")
        return [(f"training loss, step {metrics['step']:,}", ", ".join(values))]

    def cautions(self, config: Config, images: int) -> Iterable[Finding]:
        """Findings on settings that are likely to waste a run, before it starts (default: none).

        `images`: number of training images.  Settings that cannot work are errors: `validate`.
        """
        return ()

    def fewest_steps(self, config: Config) -> int:
        """Number of optimizer steps below which a run is named as too short."""
        return 500

    def diagnose(self, run: RunRecord) -> Iterable[Finding]:
        """Findings on a run, besides the core's on loss, features, steps and speed."""
        return ()

    def warn(self, run: RunRecord) -> Iterable[Finding]:
        """Findings to print as warnings while the run goes on (default: none).

        `run` has the last row of metrics and of health.  With guard.strict the first ends the run.
        """
        return ()
