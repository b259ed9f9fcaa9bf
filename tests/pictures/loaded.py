"""Images in memory that figures are computed on."""

from typing import NamedTuple

from torch import Tensor

from mae.pictures.reconstruction import BATCH, Compute, Measured, Total, unit


class LoadedImages(NamedTuple):
    """`MeasuredImages` of one process."""

    images: Tensor
    seeds: Tensor

    def each(self, compute: Compute) -> list[Measured]:
        pairs = zip(self.images.split(BATCH), self.seeds.split(BATCH), strict=True)
        return [Measured(compute(images, seeds), len(images)) for images, seeds in pairs]

    def total(self) -> Total:
        return Total(unit(self.images).double().sum(dim=0), len(self.images))
