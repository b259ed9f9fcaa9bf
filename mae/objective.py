"""What the trainer knows of a self-supervised objective; MAE is one, siblings can follow."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class Output(NamedTuple):
    """What one forward pass returns."""

    loss: Float[Tensor, ""]
    """Mean over this micro-batch; the quantity to minimise."""
    target_mean: Float[Tensor, ""]
    target_square: Float[Tensor, ""]
    """First and second moment of the regression target: R² = 1 - loss / (square - mean²)."""


class Features(NamedTuple):
    """What downstream work reads."""

    tokens: Float[Tensor, "b patches d"]
    """Patch tokens after the final norm."""
    pooled: dict[str, Float[Tensor, "b d"]]
    """Vectors per image by name: `mean` of the patch tokens, `cls` where there is one."""


class Objective(nn.Module, ABC):
    """All randomness is drawn in `draw`; `forward` is a pure function of its arguments."""

    img_size: tuple[int, int]
    """height and width of the images, in pixels"""

    @abstractmethod
    def draw(self, images: Shaped[Tensor, "b c h w"], seeds: Int[Tensor, " b"]) -> Any:
        """The noise for these images, a pure function of `seeds` (one 64-bit word a sample)."""

    @abstractmethod
    def forward(self, images: Shaped[Tensor, "b c h w"], noise: Any) -> Output:
        """The loss and its statistics."""

    @abstractmethod
    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Features of whole, uncorrupted images."""
