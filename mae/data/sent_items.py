"""Items on their way from a data worker: in shared memory, or through a pipe where that is full.

PyTorch moves the tensors of an item to shared memory in a thread of the worker, and loses the item
where /dev/shm has no room for it (containers have 64 MB unless they ask for more): the receiver
would wait for ever.  Here the item's own process moves them, and sends the item by value where
they do not fit.
"""

import io
import os
import pickle
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

SHARED_MEMORY = "/dev/shm"
MARGIN = 2**22
"""bytes of shared memory left to others: semaphores, other libraries"""


class SentItems(Dataset):
    """Data set whose items are safe to send; only for use in workers."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        item = self.dataset[index]
        return item if _share(item) else _ByValue(item)


class _ByValue:
    """A pickled item, whose tensors are copied through the pipe."""

    def __init__(self, item: Any) -> None:
        file = io.BytesIO()
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(item)
        self.data = file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickler that writes a tensor's contents."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


def received(item: Any) -> Any:
    """The item that a worker sent in one way or the other."""
    if not isinstance(item, _ByValue):
        return item
    _warn()
    return pickle.loads(item.data)  # from our own worker


@cache
def _warn() -> None:
    """Say once that shared memory is too small."""
    size = os.statvfs(SHARED_MEMORY)
    print(
        f"mae: {SHARED_MEMORY} ({size.f_blocks * size.f_frsize / 1e6:,.0f} MB) has no room for the "
        "batches of the data workers: they are copied through pipes, which is slower; start the "
        "container with a larger --shm-size, or use fewer workers",
        file=sys.stderr,
        flush=True,
    )


def _share(item: Any) -> bool:
    """Move all tensors of the item to shared memory; False where they do not fit."""
    tensors = [tensor for tensor in _tensors(item) if tensor.numel() and not tensor.is_shared()]
    if not _has_room(sum(tensor.untyped_storage().nbytes() for tensor in tensors)):
        return False
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except (RuntimeError, OSError):  # full: others take of it, too
        return False
    return True


def _has_room(num_bytes: int) -> bool:
    """True where shared memory has room for so many bytes, as far as is known."""
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:  # elsewhere on other systems
        return True
    return free.f_bavail * free.f_frsize >= num_bytes + MARGIN


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, dict):
        yield from (tensor for value in item.values() for tensor in _tensors(value))
    elif isinstance(item, list | tuple):
        yield from (tensor for value in item for tensor in _tensors(value))
