"""Contract of an objective: its module, which is model and loss.

In each micro-batch training calls `draw` (all randomness of the inputs) and `forward` (a pure
function → `Output`), after each optimizer step `after_step`.  Beside the module stand, each in a
file of its own: `Declaration` (settings, metrics and texts, without torch), `Implementation` (what
differs in training, evaluation and export) and the optional methods (`capabilities`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.config.sections import Config

if TYPE_CHECKING:
    from mae.training.checkpoint.checkpoint_files import TrainingState

Merge = Literal["sum", "rows"]
"""merge of a tensor of `Output.carry` over micro-batches and processes: "sum" adds, "rows"
concatenates along the first dimension in the order of the samples"""


class Output(NamedTuple):
    """Result of one forward pass, with the same keys in every pass."""

    losses: dict[str, Tensor]
    """means over the micro-batch times their weights, 0-d; their sum is minimised"""
    statistics: dict[str, Tensor]
    """further numbers, detached: means over the micro-batch (0-d) or sums (any shape), as
    `Declaration.statistics` declares"""
    carry: dict[str, Tensor]
    """input of `after_step` from all samples of the step, detached, such as code counts and sums"""


class Features(NamedTuple):
    """Features of whole images, for evaluation."""

    pooled: dict[str, Float[Tensor, "b d"]]
    """vectors per image, by name; the first is the default"""
    tokens: Float[Tensor, "b patches d"] | None = None
    """patch tokens after the encoder's last layer; None: the encoder has none"""


class StepEnd(NamedTuple):
    """Finished optimizer step, the same on all processes."""

    number: int
    """counted from 1"""
    seed: int
    """random seed of the run; derive draws by `fold(seed, Stream.AFTER_STEP, number, …)`"""
    skipped: Tensor
    """bool, 0-d, on the device: the gradient was not finite and the weights were not updated"""
    carry: dict[str, Tensor]
    """`Output.carry` of all samples of the step, merged by `Objective.merges`"""


class FirstStage(NamedTuple):
    """Frozen model that an objective is trained on; each of its runs and exports keeps a copy."""

    config: Config
    """settings of the model, without paths"""
    model: Objective
    sha256: str
    """of the weights: names, shapes and values"""
    state: TrainingState | None = None
    """training up to these weights; None: they are of others"""
    init: Mapping[str, Any] = {}
    """record of weights of others in it, as in a run's init.json; "untrained": freshly initialised
    on purpose"""
    lines: Sequence[str] = ()
    """lines for the user: counts, assumptions and the licence"""


class Objective(nn.Module, ABC):
    """Model and loss.

    All randomness of the inputs is in `draw`, one hash per sample; `forward` is pure.  The one
    exception is dropout and stochastic depth: they draw in `forward`, from generators that the
    trainer seeds for every step.  No result may depend on the split of a batch into processes and
    micro-batches.  Every trainable parameter gets a gradient in every step: DDP and resuming need
    it.  Optional methods: `CAPABILITIES`.
    """

    img_size: tuple[int, int]
    """height and width of the images in pixels"""

    first_stage: FirstStage | None = None
    """frozen model, no part of the state dict: see `Declaration.first_stage`"""

    merges: ClassVar[Mapping[str, Merge]] = {}
    """keys of `Output.carry` → their merge"""

    optional_weights: ClassVar[tuple[str, ...]] = ()
    """prefixes of tensors that `init.from` may lack, and that are left out where this model lacks
    them: parts that a later stage of training adds or drops"""

    @abstractmethod
    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Any:
        """Draw the noise of a micro-batch: masks, crops, corruptions, mixing.

        Args:
            images: integers (uint8 or uint16), or normalised floats.
            seeds: 64-bit hash per sample; each sample's noise should depend on its own alone.
            labels: class per sample, for objectives that learn from labels; NO_LABEL: none.

        Returns:
            The noise, in any type, for `forward`.
        """

    def covering_noises(
        self, images: Shaped[Tensor, "b c h w"], seeds: Int[Tensor, " b"]
    ) -> Sequence[Any]:
        """Noises with which `reconstruct` shows each pixel once: hidden parts are disjoint.

        One where nothing is hidden.
        """
        return [self.draw(images, seeds)]

    @abstractmethod
    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Any, progress: Float[Tensor, ""]
    ) -> Output:
        """Compute losses and statistics; a pure function of its arguments and the weights.

        `progress` is the finished share of the run, in [0, 1], on the device: for warm-ups of
        loss terms.  Do not branch on it in Python, as compiled graphs cannot.
        """

    @abstractmethod
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Compute features of whole, uncorrupted images."""

    def encoder_module(self) -> nn.Module:
        """Module whose weights determine `encode`: their hash identifies cached features."""
        return self

    def after_step(self, step: StepEnd) -> None:
        """Update buffers after an optimizer step, such as running means and codebooks.

        Buffers must be equal on all processes afterwards: compute them from `step` alone.
        """

    def after_load(self) -> None:
        """Update what depends on the weights, after weights were loaded."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them (as in timm)."""
        for part in self.modules():
            if hasattr(part, "grad_checkpointing"):
                setattr(part, "grad_checkpointing", enable)  # noqa: B010


def total_loss(output: Output) -> Float[Tensor, ""]:
    """Sum of the losses: the quantity to minimise."""
    first, *others = output.losses.values()
    return sum(others, start=first)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context in which autocast keeps the precision of the inputs.

    For quantisers, statistics and losses under bf16.  Does nothing on the meta device, where FLOP
    are counted: `torch.autocast` does not support it.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
