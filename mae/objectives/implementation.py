"""Contract of an objective: how its module is built, and what commands need around it.

Settings, metrics and texts are declared without torch: see `mae.objectives.declaration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.vit import parameter_groups
from mae.objectives.base import Objective

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from mae.data.class_names import Classes
    from mae.data.images import Images
    from mae.evaluation.probing import ProbeRequest
    from mae.export.contract import Pool, Writer
    from mae.pictures.reconstruction import ReconstructionReport, ReconstructionRequest
    from mae.pretrained_weights.architecture import WeightOptions
    from mae.pretrained_weights.fit import LoadedTensors
    from mae.pretrained_weights.init_record import InitialWeights
    from mae.pretrained_weights.weight_files import Weights


class HeldOut(NamedTuple):
    """Held-out images for `Implementation.measure`, which all processes call together."""

    images: Images
    config: Config
    """settings of the run"""
    device: torch.device
    process_index: int
    num_processes: int
    gather: Callable[[list[Any]], list[Any]]
    """concatenates the lists of all processes, on every process"""
    log: Callable[[str], None]
    """prints a line on the main process"""


class AdoptedModel(NamedTuple):
    """Model built for weights of others, with all of them loaded."""

    config: Config
    """settings of the model and its images; the others are defaults"""
    objective: Objective
    parts: Mapping[str, LoadedTensors]
    """name of a part of the model → its loaded tensors"""
    skipped: Mapping[str, str]
    """name of an unused tensor in the source → reason"""
    notes: Sequence[str] = ()
    """lines for the user on the loaded weights"""
    assumed: Sequence[str] = ()
    """assumptions, each with the option that sets it"""
    has_decoder: bool = True
    """no part of the objective is absent"""
    is_probe: bool = False
    """a head on an encoder that it was not trained with"""


class Implementation(ABC):
    """Half of an objective that needs torch, imported when a command needs it."""

    exports: ClassVar[Mapping[str, Writer]] = {}
    """writers of `mae export` by format; one of the core's names replaces the core's writer"""

    @abstractmethod
    def build(self, config: Config) -> Objective:
        """Build the objective from the settings, initialised from torch's default generator."""

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer (default: no weight decay for vectors).

        `lr_scale` in a group multiplies the learning rate.
        """
        return parameter_groups(objective, config.optim.weight_decay)

    def check_held_out(self, config: Config, images: Images) -> None:  # noqa: B027  # optional
        """Check the held-out images before training.

        Raises UserError where `measure` cannot use them.
        """

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any] | None:
        """Evaluate on held-out images: a row of health.jsonl.

        None: the core evaluates the health of the features.
        """
        return None

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """Train and test a probe on frozen encoders, for objectives that are probes.

        Returns the report, a JSON object.
        """
        raise UserError("this objective is no probe")

    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image | None:
        """Draw a panel of the training's state, from the same images and seeds each time.

        `names`: key and class of each image.

        None: the core draws a panel of `Objective.reconstruct`, if the objective has it.
        """
        return None

    def reconstruct(
        self, objective: Objective, request: ReconstructionRequest
    ) -> ReconstructionReport | None:
        """Draw the sheet of `mae reconstruct` and compute its figures.

        None: the core does both from `Objective.reconstruct`.  Raises UserError for options that
        do not apply.
        """
        return None

    def load_initial(self, objective: Objective, config: Config) -> InitialWeights | None:
        """Load the weights that `config.init` names into a fresh objective.

        None: the core loads all weights, from a run of the same objective or its plain export.
        Raises UserError where they cannot be read or do not fit.
        """
        return None

    def adopt(self, weights: Weights, options: WeightOptions) -> AdoptedModel | None:
        """Build the model that holds `weights`, whose settings are not recorded.

        None: they are not of this objective.  Raises UserError where a tensor is missing, unknown
        or does not fit, or a property of the weights is not known.
        """
        return None

    def choose_pool(self, objective: Objective, chosen: Pool | None) -> Pool | None:
        """Pooling of exported timm encoders; `chosen` is the option --pool.

        None: the class token where there is one, else the mean.  Raises UserError where the
        objective requires another than `chosen`.
        """
        return chosen

    def after_resize(  # noqa: B027  # optional
        self, objective: Objective, old_grid: tuple[int, int]
    ) -> None:
        """Resize the other modules after the timm encoder was resized.

        `old_grid`: rows and columns of patches before.
        """

    def classes(self, config: Config, run: Path) -> Classes | None:
        """Classes in the order of the logits (default: none); `run` is the run folder."""
        return None
