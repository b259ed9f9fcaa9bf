"""Images that `mae reconstruct` computes figures on, measured in parts by all processes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.divided_work import DividedWork
from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.progress import ProgressLine
from mae.base.tensor_hashing import as_tensor
from mae.commands.numbered_images import NumberedImages
from mae.data.worker_loader import load_in_workers
from mae.evaluation.features import Views, usable_views
from mae.evaluation.parts import PartResult, do_batches, pack_columns, unpack_columns
from mae.pictures.reconstruction import BATCH, Compute, Measured, Numbers, Total

SUMMED = 8
"""batches of a part of the sum, which is as large as an image of 8 bytes a value"""


def noise_seeds(seed: int, numbers: Sequence[int], device: torch.device | str) -> Tensor:
    """Seeds of the noise of images, by their numbers: the same on the sheet and in the figures."""
    return as_tensor(fold(seed, Stream.PANEL, np.asarray(numbers))).to(device)


class _Batch(NamedTuple):
    numbers: Numbers | None
    """None: no image was usable"""
    images: int
    reasons: list[str]


class _Views(Dataset[Views | UserError]):
    """Ranges of numbers → centred views of the images that are usable, and the others."""

    def __init__(self, found: NumberedImages, size: tuple[int, int]) -> None:
        self.found, self.size = found, size

    def __getitem__(self, index: range) -> Views | UserError:
        return usable_views(index, partial(self.found.view, size=self.size))


class DividedImages:
    """The first `count` images, those that are usable; `MeasuredImages` of a command.

    Each call of `each` and `total` is a stage that all processes do together.
    """

    def __init__(
        self,
        work: DividedWork,
        found: NumberedImages,
        count: int,
        *,
        size: tuple[int, int],
        seed: int,
        device: str,
        workers: int,
        log: Callable[[str], None],
    ) -> None:
        self.work, self.views, self.count = work, _Views(found, size), min(count, len(found))
        self.seed, self.device, self.workers, self.log = seed, device, workers, log
        self.stages = 0
        self.bad: list[str] = []
        """defects of the images that were skipped"""

    def each(self, compute: Compute) -> list[Measured]:
        """Results of `compute` for all batches; UserError where no image is usable."""

        def of_batch(images: Tensor, numbers: list[int]) -> Numbers:
            return compute(images.to(self.device), noise_seeds(self.seed, numbers, self.device))

        def pack(batches: list[_Batch]) -> dict[str, Numbers]:
            return {str(i): one.numbers for i, one in enumerate(batches) if one.numbers is not None}

        return [
            Measured(part.columns[str(i)], images)
            for part in self._stage(of_batch, pack)
            for i, images in enumerate(part.columns["images"].tolist())
            if images
        ]

    def total(self) -> Total:
        """Sum of the images; UserError where none is usable."""

        def of_batch(images: Tensor, numbers: list[int]) -> Numbers:
            if images.is_floating_point():
                return images.double().sum(dim=0).numpy()
            white = torch.iinfo(images.dtype).max
            return (images.to(torch.int64).sum(dim=0).double() / white).numpy()

        def pack(batches: list[_Batch]) -> dict[str, Numbers]:
            usable = [one.numbers for one in batches if one.numbers is not None]
            return {"sum": np.sum(usable, axis=0)} if usable else {}

        found = [part.columns for part in self._stage(of_batch, pack, SUMMED)]
        total = np.sum([part["sum"] for part in found if "sum" in part], axis=0)
        return Total(torch.from_numpy(total), sum(int(part["images"].sum()) for part in found))

    def _stage(
        self,
        of_batch: Callable[[Tensor, list[int]], Numbers],
        pack: Callable[[list[_Batch]], dict[str, Numbers]],
        together: int = 1,
    ) -> list[PartResult]:
        """Parts of the next stage, of at least so many batches `together`, of all processes."""

        def compute(batches: Sequence[range]) -> Iterator[_Batch]:
            for found in load_in_workers(self.views, batches, self.workers):
                reasons = [one.reason for one in found.bad]
                if found.images is None:
                    yield _Batch(None, 0, reasons)
                else:
                    numbers = of_batch(found.images, found.samples)
                    yield _Batch(numbers, len(found.samples), reasons)

        def packed(batches: list[_Batch]) -> bytes:
            images = np.array([one.images for one in batches])
            reasons = [reason for one in batches for reason in one.reasons]
            return pack_columns({**pack(batches), "images": images}, reasons)

        name, self.stages = f"stage{self.stages}", self.stages + 1
        show = ProgressLine("measuring", "images", self.log)
        count = do_batches(
            self.work, name, self.count, BATCH, compute, packed, show, together=together
        )
        found = [unpack_columns(part) for part in self.work.results(name, count)]
        self.bad = [reason for part in found for reason in part.reasons]
        if len(self.bad) == self.count:
            raise UserError(f"{self.bad[0]} (none of {self.count:,} measured images is usable)")
        return found
