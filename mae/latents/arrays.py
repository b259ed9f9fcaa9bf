"""Latents of a batch as arrays in the types in which they are stored, and their members."""

import io
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.objectives.capabilities import ImageLatents

Array = npt.NDArray[Any]
FloatType = Literal["float16", "float32"]
STD = "std"
"""name of the array of standard deviations"""
FLIP = "flip"
"""name before those of the arrays of mirrored images"""
LARGEST_SHORT = 32767
"""largest code of two bytes"""


class Kind(NamedTuple):
    """Kind of one of the arrays of an image."""

    what: str
    """meaning, for people"""
    shape: tuple[int, ...]
    type: str
    """of numpy"""
    num_codes: int = 0
    """number of different codes; 0: floats"""

    @property
    def bytes(self) -> int:
        """Size of the values."""
        return int(np.prod(self.shape)) * np.dtype(self.type).itemsize


class ArrayMaker(NamedTuple):
    """Maker of arrays from images."""

    image_latents: Callable[[Tensor], ImageLatents]
    """integer images [b c h w] on `device` → latents"""
    float_type: FloatType = "float32"
    flip: bool = False
    """also the latents of the mirrored images"""
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def arrays(self, images: Tensor) -> dict[str, Array]:
        """Arrays [b …] by name, those of mirrored images after `flip`.

        Raises UserError where floats are not finite in their type.
        """
        images = images.to(self.device)
        found = self._stored(self.image_latents(images), "")
        if self.flip:
            found |= self._stored(self.image_latents(mirrored(images)), FLIP)
        return found

    @torch.no_grad()
    def kinds(self, blank: Tensor) -> tuple[dict[str, Kind], dict[str, Any]]:
        """Kinds of the arrays by name, from one image, and the scale that is given.

        Raises UserError as `arrays`, and as the model does where it has no latents of images.
        """
        latents, arrays = self.image_latents(blank.to(self.device)), self.arrays(blank)
        kinds = {}
        for name, values in arrays.items():
            is_flipped = name.split(".")[0] == FLIP
            one = latents.arrays[name.removeprefix(FLIP).removeprefix(".") if is_flipped else name]
            what = f"{one.what}{' of the mirrored image' * is_flipped}"
            kinds[name] = Kind(what, values.shape[1:], values.dtype.name, one.num_codes)
        return kinds, dict(latents.scale)

    def _stored(self, latents: ImageLatents, prefix: str) -> dict[str, Array]:
        found = {}
        for name, one in latents.arrays.items():
            values = one.values.detach().cpu()
            if one.num_codes:
                small = one.num_codes - 1 <= LARGEST_SHORT
                values = values.to(torch.int16 if small else torch.int32)
            else:
                values = values.to(getattr(torch, self.float_type))
                _require_finite(values, one.values, self.float_type)
            found[".".join(filter(None, (prefix, name)))] = values.numpy()
        return found


def mirrored(images: Tensor) -> Tensor:
    """Integer images [b c h w] with left and right exchanged."""
    bits = images.view(torch.int16) if images.dtype == torch.uint16 else images
    return bits.flip(-1).view(images.dtype)


def member(name: str) -> str:
    """Extension of the member that holds the array `name`, such as `std.npy`."""
    return f"{name}.npy" if name else "npy"


def npy(values: Array) -> bytes:
    """Content of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()


def _require_finite(stored: Tensor, values: Tensor, float_type: str) -> None:
    if stored.isfinite().all():
        return
    if values.isfinite().all():
        raise UserError(f"latents: beyond the range of {float_type}: use --dtype float32")
    raise UserError("latents: not finite: the weights are damaged; take another checkpoint")
