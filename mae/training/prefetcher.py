"""Prefetching of batches to the device, beside the steps that it still computes."""

from collections import deque
from typing import NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mae.data.batch import TrainingBatch
from mae.data.device_crop import resize_crops

MAX_AHEAD = 2
"""maximum number of batches on the device that wait for their step"""


class DeviceBatch(NamedTuple):
    """A batch on the device, as an objective takes it."""

    images: Shaped[Tensor, "b c h w"]
    seeds: Int[Tensor, " b"]
    labels: Int[Tensor, " b"]


class DevicePrefetcher:
    """Copies batches to `device` and cuts their crops there.

    On a GPU this has a stream of its own: the loop is ahead of the device, so a batch arrives
    while the step before it is computed.  The loop waits only where it is further ahead than
    MAX_AHEAD batches, which would fill the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.begun: deque[torch.cuda.Event] = deque()

    def __call__(self, batch: TrainingBatch, img_size: tuple[int, int]) -> DeviceBatch:
        """The batch, ready for the device's current stream."""
        if self.stream is None:
            return self._put(batch, img_size)
        if len(self.begun) == MAX_AHEAD:
            self.begun.popleft().synchronize()
        with torch.cuda.stream(self.stream):
            found = self._put(batch, img_size)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in found:
            tensor.record_stream(current)  # its memory is free only after this stream's use
        begun = torch.cuda.Event()
        begun.record(current)
        self.begun.append(begun)
        return found

    def _put(self, batch: TrainingBatch, img_size: tuple[int, int]) -> DeviceBatch:
        images = batch.images
        if isinstance(images, Tensor):
            images = images.to(self.device, non_blocking=True)
        else:
            if images.pixels.is_cuda:  # decoded there, in another stream
                images.pixels.record_stream(torch.cuda.current_stream(self.device))
            images = resize_crops(images, img_size, self.device)
        seeds, labels = (
            one.to(self.device, non_blocking=True) for one in (batch.seeds, batch.labels)
        )
        return DeviceBatch(images, seeds, labels)
