"""What the trainer knows of a self-supervised objective; MAE is one, siblings can follow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class Output(NamedTuple):
    """What one forward pass returns."""

    loss: Float[Tensor, ""]
    """Mean over this micro-batch; the quantity to minimise."""
    statistics: Float[Tensor, "2"]
    """Two further means over this micro-batch; `figures` knows what they say."""


class Features(NamedTuple):
    """What downstream work reads."""

    tokens: Float[Tensor, "b patches d"]
    """Patch tokens after the encoder's last layer."""
    pooled: dict[str, Float[Tensor, "b d"]]
    """Vectors per image by name: `mean` of the patch tokens, `cls` where there is one."""


class Objective(nn.Module, ABC):
    """What is random about the inputs is drawn in `draw`; `forward` computes.

    Where a model drops parts of itself by chance, that is decided in `forward`, by generators that
    the trainer seeds anew for every step.
    """

    img_size: tuple[int, int]
    """height and width of the images, in pixels"""

    @abstractmethod
    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Any:
        """The noise for these images, from `seeds` (one 64-bit word a sample) as far as it can be.

        `labels`: classes, for objectives that are told; NO_LABEL where there is none.
        """

    @abstractmethod
    def forward(self, images: Shaped[Tensor, "b c h w"], noise: Any) -> Output:
        """The loss and its statistics."""

    @abstractmethod
    def figures(self, loss: float, statistics: Sequence[float]) -> dict[str, float]:
        """What people want to know, by name, from means over many micro-batches."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks keep only what goes into them, and compute the rest again (as in timm)."""
        for part in self.modules():
            if hasattr(part, "grad_checkpointing"):
                setattr(part, "grad_checkpointing", enable)  # noqa: B010

    def replaced(self) -> None:
        """Whatever follows from weights that were loaded, not trained."""

    def after_step(self, step: int) -> None:
        """Whatever follows step `step` of the optimizer, counted from 1."""

    @abstractmethod
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Features of whole, uncorrupted images."""
