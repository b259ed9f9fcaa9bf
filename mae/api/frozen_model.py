"""A trained model with fixed weights, and the images that go through it, batch by batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mae.api.images import Pictures, Reader
from mae.api.settings import as_call
from mae.base.device import choose_device
from mae.base.errors import SampleError, UserError
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder
from mae.objectives.base import Objective
from mae.objectives.registry import OBJECTIVES, declaration
from mae.pretrained_weights.opened import OpenedModel

Array = npt.NDArray[np.float32]
Bad = Literal["raise", "nan"]
"""what is done about an image that cannot be used: an error, or a row of NaN"""


class FrozenModel:
    """Model on a device: results for images, in their order, with a batch of them in memory."""

    def __init__(
        self,
        source: Path,
        config: Config,
        module: nn.Module,
        encoder: FrozenEncoder,
        opened: OpenedModel | None,
    ) -> None:
        """Wrap a model in evaluation mode; `opened` is None for an export for timm."""
        self.source, self.config = source, config
        self.objective: Objective | None = opened.objective if opened else None
        self.device = torch.device("cpu")
        self._module, self._encoder, self._opened = module, encoder, opened
        self._reader = Reader(config, encoder.img_size)

    def _move(self, device: str) -> None:
        """Move the model; UserError where torch cannot use the device."""
        try:
            self.device = torch.device(choose_device(device))
        except UserError as error:
            raise as_call(error) from None
        self._module.to(self.device)

    def _rows(
        self,
        compute: Callable[[Tensor, list[int]], Tensor],
        images: Pictures,
        batch_size: int,
        workers: int | None = None,
        bad: Bad = "raise",
    ) -> Array:
        """Results [n …] of `compute(views, their places)`, a row per image.

        Raises SampleError for the first image that cannot be used, unless its row is to be NaN.
        """
        if bad not in ("raise", "nan"):
            raise UserError(f'bad: {bad!r}: "raise" or "nan"')
        parts: list[Array] = []

        def add(views: Tensor, numbers: list[int]) -> None:
            parts.append(compute(views.to(self.device), numbers).float().cpu().numpy())

        with torch.no_grad():
            for batch in self._reader.batches(images, batch_size, workers):
                if batch.bad and bad == "raise":
                    raise SampleError(batch.bad[0].reason)
                add(self._blank() if batch.views is None else batch.views, batch.numbers or [0])
                if batch.bad:
                    missing = [one.sample for one in batch.bad]
                    parts[-1] = with_gaps(parts[-1], batch.numbers, missing)
            if not parts:
                add(self._blank(), [0])  # its width is that of no images, too
                parts = [parts[0][:0]]
        return np.concatenate(parts)

    def _views(
        self, images: Pictures, batch_size: int, most: int | None = None
    ) -> list[tuple[Tensor, list[int]]]:
        """Views of the first `most` images (None: all) and their places, on the device.

        Raises SampleError for the first image that cannot be used.
        """
        found, count = [], 0
        for batch in self._reader.batches(images, batch_size, workers=0):
            if batch.bad or batch.views is None:
                raise SampleError(batch.bad[0].reason)
            found.append((batch.views.to(self.device), batch.numbers))
            count += len(batch.numbers)
            if most is not None and count > most:
                raise UserError(f"images: more than {most}")
        return found

    def _blank(self) -> Tensor:
        """One black image, on the device."""
        data = self.config.data
        kind = {8: torch.uint8, 16: torch.uint16}.get(data.bits, torch.float32)
        size = self._encoder.img_size
        return torch.zeros(1, data.in_chans, *size, dtype=kind, device=self.device)

    def _no_images(self) -> Array:
        return np.zeros((0, *self._encoder.img_size, self.config.data.in_chans), np.float32)

    def _capability(self, method: str, what: str) -> Callable[..., Tensor]:
        """Method of the objective that gives `what`.

        Raises UserError where it lacks the method, or a file of weights the part that it needs.
        """
        found: Any = getattr(self.objective, method, None)
        if found is None:
            name = self.config.objective
            subject = "this export" if self.objective is None else f"objective {name}"
            having = [one for one in OBJECTIVES if what in declaration(one).offers]
            known = f"; objectives with them: {', '.join(having)}" if having else ""
            raise UserError(f"{self.source}: {subject} has no {what}{known}")
        if what == "reconstructions" and self._opened and not self._opened.has_decoder:
            raise UserError(f"{self.source}: holds no decoder, which {what} need")
        return found


def with_gaps(rows: Array, numbers: list[int], missing: list[int]) -> Array:
    """Rows of `numbers`, and rows of NaN for those `missing`, in the order of all of them."""
    order = sorted([*numbers, *missing])
    whole = np.full((len(order), *rows.shape[1:]), np.nan, np.float32)
    whole[np.searchsorted(order, numbers)] = rows[: len(numbers)]
    return whole
