"""Frozen features of shards: every image's centred view, encoded once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import SampleError, UserError
from mae.data.batches import batches
from mae.data.images import BadSample, Images
from mae.data.loader import CentredViews
from mae.data.transform import stack
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.left_out import LeftOut

Matrix = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
BATCH = 256


class Encoded(NamedTuple):
    """One batch of encoded images."""

    vectors: dict[str, Halves]
    """[b d] by name; `tokens` [b p d] where asked for; empty where no image was usable"""
    samples: list[int]
    """of the rows: numbers in the manifest"""
    bad: list[BadSample]
    """images that have no row, since they do not decode"""


class _Views(NamedTuple):
    images: Tensor | None
    samples: list[int]
    bad: list[BadSample]


class UsableViews(Dataset):
    """Ranges of sample numbers → the centred views of those that decode, and the bad ones."""

    def __init__(self, views: CentredViews) -> None:
        self.views = views

    def __getitem__(self, index: range) -> _Views | UserError:
        """A shard that cannot be read comes back as a value, a StorageError."""
        usable: dict[int, Tensor] = {}
        bad = []
        for sample in index:
            try:
                usable[sample] = self.views.view(sample)
            except SampleError as error:
                bad.append(BadSample(sample, str(error)))
            except UserError as error:
                return error
        return _Views(stack(list(usable.values())) if usable else None, list(usable), bad)


class Usable(NamedTuple):
    """Which images can be looked at."""

    samples: npt.NDArray[np.int64]
    """numbers in the manifest, ascending"""
    left_out: list[str]
    """what is wrong with the others"""


def usable_samples(views: CentredViews, max_bad: int, *, workers: int = 0) -> Usable:
    """Decode all images once, to know before hours of work which of them do not.

    Raises UserError where more than `max_bad` do not, StorageError for an unreadable shard.
    """
    left_out, samples = LeftOut(views.images, max_bad), []
    for found in batches(UsableViews(views), ranges(len(views), BATCH), workers):
        left_out.add(found.bad)
        samples += found.samples
    return Usable(np.array(samples, dtype=np.int64), left_out.reasons)


def ranges(count: int, size: int) -> list[range]:
    """0 to `count` - 1 in parts of `size`, the last one smaller."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def encode_images(
    encoder: FrozenEncoder,
    images: Images,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
) -> Iterator[Encoded]:
    """Encode all of `images` in the order of the manifest, batch by batch.

    Raises StorageError for a shard that cannot be read, UserError for features that half
    precision cannot hold.
    """
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    for found in batches(UsableViews(views), ranges(len(views), batch_size), workers):
        vectors: dict[str, Halves] = {}
        if found.images is not None:
            with torch.no_grad():
                outputs = encoder.encode(found.images.to(device))
            names = [name for name in sorted(outputs) if tokens or name != TOKENS]
            vectors = {name: _halves(outputs[name], name) for name in names}
        yield Encoded(vectors, found.samples, found.bad)


def _halves(vectors: Tensor, name: str) -> Halves:
    halves = vectors.half().cpu()
    if not halves.isfinite().all():
        raise UserError(
            f"features: `{name}` is not finite, or beyond ±65,504: the weights are damaged, or "
            "this encoder ends without a norm"
        )
    return halves.numpy()
