"""The contract of an objective: its module (`Objective`) and what is built around it.

Settings, figures and words are declared apart, without torch: `mae.objectives.declaration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.parameter_groups import parameter_groups

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from mae.data.images import Images
    from mae.evaluation.probing import ProbeRequest
    from mae.export.subject import Pool, Writer
    from mae.pictures.reconstruction import Asked, Reconstructed
    from mae.pretrained_weights.record import Initial

CAPABILITIES = ("encode", "reconstruct", "decode", "sample", "logits")
"""methods of an objective that use its weights, besides `forward`; only `encode` is a must"""

Merge = Literal["sum", "rows"]
"""how a tensor of `Output.carry` is merged over micro-batches and processes: added up, or
concatenated along its first dimension in the order of the samples"""


class Output(NamedTuple):
    """Result of one forward pass; the keys are the same in every pass."""

    losses: dict[str, Tensor]
    """0-d, weighted means over this micro-batch; their sum is minimised"""
    statistics: dict[str, Tensor]
    """further numbers, as `Declaration.statistics` declares them: means over this micro-batch, or
    sums of any shape; detached"""
    carry: dict[str, Tensor]
    """what `after_step` needs of all samples of the step; detached"""


class Features(NamedTuple):
    """Features of whole images, for evaluation."""

    pooled: dict[str, Float[Tensor, "b d"]]
    """vectors per image by name; the first is the one to look at"""
    tokens: Float[Tensor, "b patches d"] | None = None
    """patch tokens after the encoder's last layer, where there are any"""


class Reconstruction(NamedTuple):
    """Pictures in the units of the source, [0, 1]."""

    pasted: Float[Tensor, "b c h w"]
    """the reconstruction; where parts were hidden, with the visible ones pasted in"""
    mask: Float[Tensor, "b c h w"] | None = None
    """1 = pixel was hidden, 0 = visible; None where nothing is hidden"""


class StepEnd(NamedTuple):
    """An optimizer step that is over, the same on all processes."""

    number: int
    """counted from 1"""
    seed: int
    """of the run: for draws, `fold(seed, Stream.AFTER_STEP, number, …)`"""
    skipped: Tensor
    """bool, 0-d, on the device: the gradient was not finite, and weights stayed as they were"""
    carry: dict[str, Tensor]
    """`Output.carry` of all samples of the step, merged as `Objective.merges` says"""


class Objective(nn.Module, ABC):
    """A model and its loss.

    All that is random about the inputs is drawn in `draw`; `forward` computes.  Where a model
    drops parts of itself by chance, that is decided in `forward`, by generators that the trainer
    seeds anew for every step.  No result may depend on how a batch is split into processes and
    micro-batches.
    """

    img_size: tuple[int, int]
    """height and width of the images, in pixels"""

    merges: ClassVar[Mapping[str, Merge]] = {}
    """the keys of `Output.carry`"""

    @abstractmethod
    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Any:
        """The noise for these images, from `seeds` (one 64-bit word a sample) as far as it can be.

        `labels`: classes, for objectives that learn them; NO_LABEL where there is none.
        """

    @abstractmethod
    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Any, progress: Float[Tensor, ""]
    ) -> Output:
        """Losses and statistics.

        `progress` is the share of the run that is done, from 0 up to 1, on the device: for
        warm-ups.  Compiled graphs allow no Python branch on it.
        """

    @abstractmethod
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Features of whole, uncorrupted images."""

    def encoding_part(self) -> nn.Module:
        """The part whose weights decide `encode`: features are known by them.  Here all of it."""
        return self

    def after_step(self, step: StepEnd) -> None:
        """Updates that follow an optimizer step, such as those of buffers.

        Buffers must come out equal on all processes: compute them from `step` alone.
        """

    def after_load(self) -> None:
        """Updates that follow from weights that were loaded, not trained."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let blocks keep only their inputs, and compute the rest again (as in timm)."""
        for part in self.modules():
            if hasattr(part, "grad_checkpointing"):
                setattr(part, "grad_checkpointing", enable)  # noqa: B010


def total_loss(output: Output) -> Float[Tensor, ""]:
    """The quantity to minimise: the sum of the losses."""
    first, *others = output.losses.values()
    return sum(others, start=first)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Region of a forward pass that autocast leaves in the precision of its inputs.

    For quantisers, statistics and losses under bf16.  `torch.autocast` itself knows no meta
    device, on which operations are counted.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class HeldOut(NamedTuple):
    """Held-out images for `Implementation.measure`, which all processes call together."""

    images: Images
    config: Config
    device: torch.device
    process_index: int
    num_processes: int
    gather: Callable[[list[Any]], list[Any]]
    """joins a list of each process to one list on all"""
    say: Callable[[str], None]
    """prints a line, on the main process"""


class Implementation(ABC):
    """The half of an objective that needs torch; loaded when a command needs it."""

    exports: ClassVar[Mapping[str, Writer]] = {}
    """formats of `mae export` besides those of any objective, or instead of one of these"""

    @abstractmethod
    def build(self, config: Config) -> Objective:
        """The objective that the settings describe, freshly initialised from torch's generator."""

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """Groups of the trainable parameters for the optimizer.

        `lr_scale` in a group is its share of the learning rate.
        """
        return parameter_groups(objective, config.optim.weight_decay)

    def require_held_out(self, config: Config, images: Images) -> None:  # noqa: B027  # optional
        """UserError where `images` cannot be used to measure a run."""

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any] | None:
        """A row of health.jsonl; None: the health of the features, as any objective has it."""
        return None

    def probe(self, request: ProbeRequest) -> Mapping[str, Any]:
        """The report of a probe of frozen encoders, for objectives that a command trains so."""
        raise UserError("this objective is no probe")

    def panel(
        self, objective: Objective, images: Tensor, seeds: Tensor, title: str
    ) -> Image.Image | None:
        """A picture of the state of training, of the same images and noise each time.

        None: what `Objective.reconstruct` makes of them, where there is such a method.
        """
        return None

    def reconstruct(self, objective: Objective, asked: Asked) -> Reconstructed | None:
        """Sheet and figures of `mae reconstruct`; UserError for options that do not apply.

        None: those that any objective with a method `reconstruct` has.
        """
        return None

    def load_initial(self, objective: Objective, config: Config) -> Initial | None:
        """Load the weights that `config.init` names into a fresh objective.

        None: all of them, from a run of the same objective or a plain export of one.  Raises
        UserError where they are not to be had, or do not fit.
        """
        return None

    def choose_pool(self, objective: Objective, chosen: Pool | None) -> Pool | None:
        """Vector per image that exports of a timm encoder give; UserError where it is not `chosen`.

        None: the choice, or the class token where there is one.
        """
        return chosen

    def after_resize(  # noqa: B027  # optional
        self, objective: Objective, old_grid: tuple[int, int]
    ) -> None:
        """Fit the rest of a model to its timm encoder, whose positions had `old_grid` before."""

    def class_names(self, config: Config, run: Path) -> Sequence[str]:
        """Names of the classes in the order of the logits; `run` is the run's folder."""
        return ()
