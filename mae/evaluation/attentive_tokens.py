"""All tokens of a data set, batch by batch in any order: from the cache, or encoded each time."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.data.batches import batches
from mae.data.images import Images
from mae.data.loader import CentredViews
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import usable_samples
from mae.evaluation.features_file import FeatureSet

Rows = npt.NDArray[np.int64]


class Tokens(Protocol):
    """What an attentive probe reads."""

    samples: Rows
    """[n] each row's number in the manifest; images that do not decode have no row"""
    left_out: list[str]
    """what is wrong with those"""

    def batches(self, slices: Sequence[Rows]) -> Iterator[Tensor]:
        """float32 [len(rows) t d] of each of `slices`: the class token, if any, and all patches."""
        ...


class CachedTokens:
    """From a file of features."""

    def __init__(self, features: FeatureSet, device: torch.device | str) -> None:
        self.features, self.device = features, device
        self.samples, self.left_out = features.samples, features.dropped()

    def batches(self, slices: Sequence[Rows]) -> Iterator[Tensor]:
        """As in Tokens."""
        for rows in slices:
            names = {"cls", TOKENS} & self.features.vectors.keys()
            yield joined({name: self._read(name, rows) for name in names})

    def _read(self, name: str, rows: Rows) -> Tensor:
        """Rows of the file, which is read in its own order."""
        order = np.argsort(rows)
        values = torch.from_numpy(self.features.vectors[name][rows[order]])
        back = torch.empty(len(rows), dtype=torch.int64)
        back[torch.from_numpy(order)] = torch.arange(len(rows))
        return values[back].to(self.device).float()


class EncodedTokens:
    """From the images, each time."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        images: Images,
        device: torch.device | str,
        workers: int,
        max_bad: int = 0,
    ) -> None:
        """Decodes all once; UserError where more than `max_bad` images do not."""
        self.encoder, self.device, self.workers = encoder, device, workers
        self.views = CentredViews(images, encoder.img_size, encoder.crop_pct)
        self.samples, self.left_out = usable_samples(self.views, max_bad, workers=workers)

    def batches(self, slices: Sequence[Rows]) -> Iterator[Tensor]:
        """As in Tokens."""
        numbers = [self.samples[rows].tolist() for rows in slices]
        for images in batches(self.views, numbers, self.workers):  # pyrefly: ignore  # any numbers
            with torch.no_grad():  # and out of it before whoever trains gets the turn
                found = self.encoder.encode(images.to(self.device))
                # As the cache keeps them, so that the two give the same probe.
                tokens = joined({name: value.half().float() for name, value in found.items()})
            yield tokens


def joined(vectors: dict[str, Tensor]) -> Tensor:
    """[b t d]: the class token, if there is one, then the patch tokens."""
    first = [vectors["cls"][:, None]] if "cls" in vectors else []
    return torch.cat([*first, vectors[TOKENS]], dim=1)


def token_bytes(encoder: FrozenEncoder, images: Images, device: torch.device | str) -> int:
    """What the cache of all tokens takes on disk."""
    dtype = torch.uint8 if images.bits == 8 else torch.uint16
    blank = torch.zeros(1, images.channels, *encoder.img_size, dtype=dtype)
    with torch.no_grad():
        found = encoder.encode(blank.to(device))
    return len(images.manifest) * sum(2 * value.numel() for value in found.values())
