"""Micro-batches of training and their sharding over steps, processes and accumulation."""

from collections.abc import Container, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from mae.data.images import BadSample
from mae.data.manifest import Manifest
from mae.data.order import Order


class Crops(NamedTuple):
    """Crop boxes of a micro-batch, cut out but not resized."""

    pixels: Tensor
    """uint8, or int16 with the bits of uint16: all boxes, [h w c] each, back to back"""
    heights: Tensor
    """int64 [b], on the CPU"""
    widths: Tensor
    """int64 [b], on the CPU"""
    flips: Tensor
    """bool [b], on the CPU"""
    channels: int


class EncodedCrops(NamedTuple):
    """Crop boxes of a micro-batch and the image files that the device decodes for them."""

    data: Tensor
    """uint8: the images back to back, as JPEGs or, where the device cannot decode them, as pixels
    [h w c]"""
    table: Tensor
    """int64 [n 4], per image: its end in `data`, height, width, whether it is a JPEG"""
    image: Tensor
    """int64 [b]: the image of each crop"""
    views: Tensor
    """int64 [b 5]: top, left, height, width and flip of each crop"""
    channels: int


Pixels = TypeVar("Pixels", covariant=True)


class Batch(NamedTuple, Generic[Pixels]):
    """A micro-batch of one process."""

    images: Pixels
    """uint8 or uint16 [b c h w], or what the device or a user makes them from"""
    seeds: Tensor
    """int64 [b]: one random word per (run seed, view, sample), for the objective"""
    samples: Tensor
    """int64 [b]: numbers in the manifest"""
    labels: Tensor
    """int64 [b]: classes; NO_LABEL where a sample has none"""
    bad: list[BadSample]
    """samples that could not be used and were replaced"""


TrainingBatch = Batch[Tensor | Crops]
"""a micro-batch as the training step takes it: decoded, resized or still to be resized"""


class BatchSharding(NamedTuple):
    """Sharding of global batches: batch k is positions [k·B, (k+1)·B) of the order.

    Process r takes the r-th of `num_processes` equal parts, in `accumulation` micro-batches.
    """

    batch_size: int
    num_processes: int
    process_index: int
    accumulation: int

    @property
    def device_batch(self) -> int:
        """Images per micro-batch of a process."""
        return self.batch_size // (self.num_processes * self.accumulation)

    def micro_batches(
        self, first_step: int, last_step: int, skipped: Container[int] = ()
    ) -> Iterator[range]:
        """Positions of each micro-batch of steps first_step + 1 … last_step, counted from 1.

        Steps in `skipped` are passed over.
        """
        share = self.batch_size // self.num_processes
        for step in range(first_step, last_step):
            if step + 1 in skipped:
                continue
            start = step * self.batch_size + self.process_index * share
            for micro in range(self.accumulation):
                yield range(
                    start + micro * self.device_batch, start + (micro + 1) * self.device_batch
                )


def step_names(manifest: Manifest, order: Order, step: int, batch_size: int) -> list[str]:
    """`shard: key KEY` of every sample of training step `step`, counted from 1."""
    place = order(np.arange((step - 1) * batch_size, step * batch_size))
    return [manifest.name(sample) for sample in place.sample.tolist()]
