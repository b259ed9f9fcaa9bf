"""Copies of batches to the device while it computes earlier steps."""

from collections import deque
from typing import NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mae.data.batch import TrainingBatch
from mae.data.device_crop import resize_crops

MAX_AHEAD = 2
"""maximum number of steps that the loop is ahead of a GPU"""


class DeviceBatch(NamedTuple):
    """A batch on the device, as an objective takes it."""

    images: Shaped[Tensor, "b c h w"]
    seeds: Int[Tensor, " b"]
    labels: Int[Tensor, " b"]


class DevicePrefetcher:
    """Copies batches to `device` and cuts their crops there.

    On a GPU it uses a stream of its own, so a batch is copied while the previous step is computed.
    The loop waits only when it is more than MAX_AHEAD batches ahead, to bound the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.events: deque[torch.cuda.Event] = deque()
        """recorded in the computing stream when each of the last steps could start"""

    def __call__(self, batch: TrainingBatch, img_size: tuple[int, int]) -> DeviceBatch:
        """Return the batch on the device, ready for the current stream."""
        if self.stream is None:
            return self._put(batch, img_size)
        if len(self.events) == MAX_AHEAD:
            self.events.popleft().synchronize()
        with torch.cuda.stream(self.stream):
            on_device = self._put(batch, img_size)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in on_device:
            tensor.record_stream(current)  # keeps its memory until this stream has used it
        event = torch.cuda.Event()
        event.record(current)
        self.events.append(event)
        return on_device

    def _put(self, batch: TrainingBatch, img_size: tuple[int, int]) -> DeviceBatch:
        images = batch.images
        if isinstance(images, Tensor):
            images = images.to(self.device, non_blocking=True)
        else:
            if images.pixels.is_cuda:  # decoded on the GPU, in another stream
                images.pixels.record_stream(torch.cuda.current_stream(self.device))
            images = resize_crops(images, img_size, self.device)
        seeds, labels = (
            one.to(self.device, non_blocking=True) for one in (batch.seeds, batch.labels)
        )
        return DeviceBatch(images, seeds, labels)
