"""Segmentation masks: ground truth per pixel and patch from the shards, and scores against it."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import SampleError, UserError
from mae.data.images import BadSample, Images
from mae.data.scan import MASKS
from mae.data.shard_reader import ShardReader
from mae.data.tar_members import walk
from mae.data.transform import center_fit, center_view, cut, stack, trim
from mae.decoding.png import without_metadata
from mae.networks.patches import patchify
from mae.storage.remote import is_remote, redacted

IGNORE = 255
"""value of pixels that belong to no class"""

MODES = ("1", "L", "P")
"""modes of PNGs: the class is the gray value, or the number in the palette"""

RESAMPLES = 1000
"""bootstrap resamples"""

Counts = npt.NDArray[np.int64]
"""[images classes 3] numbers of pixels: true positives, predicted, true"""


class Masks:
    """Masks of the images of a manifest, by the same numbers: `KEY.mask.png` or `.seg.png`."""

    def __init__(self, images: Images, key: str) -> None:
        """Scan all shards for masks; UserError, naming `key`, unless each image has exactly one."""
        manifest, cache = images.manifest, images.reader.cache
        offset = np.zeros(len(manifest), np.int64)
        size, crc = np.zeros(len(manifest), np.uint32), np.zeros(len(manifest), np.uint32)
        for shard, location in enumerate(manifest.shards):
            first = int(manifest.first[shard])
            names = manifest.keys[shard].decode("utf-8", "surrogateescape").split("\0")
            number = {name: first + i for i, name in enumerate(names)}
            with _local_copy(images, shard) as path, path.open("rb") as file:
                for member in walk(path, redacted(location)):
                    # Also of a key with dots: `KEY.05.01.mask.png` belongs to `KEY.05.01.jpg`.
                    name, dot, last = member.name.rpartition(".")
                    name, second_dot, second = name.rpartition(".")
                    extension = f"{second}{dot}{last}".lower()
                    if not second_dot or extension not in MASKS or name not in number:
                        continue
                    sample = number[name]
                    if size[sample]:
                        raise UserError(f"{key}: {manifest.name(sample)}: more than one mask")
                    offset[sample], size[sample] = member.offset, member.size
                    crc[sample] = zlib.crc32(os.pread(file.fileno(), member.size, member.offset))
        if len(missing := np.flatnonzero(size == 0)):
            raise UserError(
                f"{key}: {len(missing)} of {len(manifest)} images have no mask "
                f"(.{', .'.join(MASKS)}), first {manifest.name(int(missing[0]))}"
            )
        self.manifest = replace(manifest, offset=offset, size=size, crc=crc)
        self.reader = ShardReader(self.manifest, cache)

    def __getitem__(self, sample: int) -> npt.NDArray[np.uint8]:
        """Mask [h w] of a sample; SampleError, naming shard and key, for a bad mask."""
        name = self.manifest.name(sample)
        try:
            data = without_metadata(self.reader.read(sample))
            with Image.open(io.BytesIO(data), formats=("PNG",)) as mask:
                if mask.mode not in MODES:
                    raise SampleError(
                        f"{name}: a mask of mode {mask.mode}; it must be gray or have a palette, "
                        "8 bits a pixel"
                    )
                return np.asarray(mask).astype(np.uint8)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            raise SampleError(f"{name}: mask: {'no PNG' if unknown else error}") from None

    def classes(self) -> npt.NDArray[np.int64]:
        """All classes that occur, ascending; reads every mask and skips bad ones."""
        seen = np.zeros(256, bool)
        for sample in range(len(self.manifest)):
            with suppress(SampleError):  # skipped and counted when its image is read
                seen[self[sample]] = True
        seen[IGNORE] = False
        return np.flatnonzero(seen)


@contextmanager
def _local_copy(images: Images, shard: int) -> Iterator[Path]:
    """Path to read a shard from: its own, or that of a cached copy."""
    manifest, cache = images.manifest, images.reader.cache
    location = manifest.shards[shard]
    if not is_remote(location) or cache is None:
        yield Path(location)
        return
    held = {"size": manifest.shard_bytes[shard], "sha256": manifest.sha256[shard]}
    with cache.open(location, **held) as copy:
        yield Path(f"/dev/fd/{copy.fileno()}")


class Pairs(NamedTuple):
    """Batch of images and masks that decode."""

    images: Tensor | None
    """[b c h w]; None where no pair decodes"""
    masks: Tensor | None
    """uint8 [b h w]"""
    bad: list[BadSample]
    """samples whose image or mask is bad"""


class MaskedViews(Dataset):
    """Data set: range of sample numbers → centred views and masks, cropped and resized alike."""

    def __init__(
        self, images: Images, masks: Masks, img_size: tuple[int, int], crop_pct: float | None
    ) -> None:
        self.images, self.masks = images, masks
        self.img_size, self.crop_pct = img_size, crop_pct

    def __len__(self) -> int:
        return len(self.images.manifest)

    def __getitem__(self, index: range) -> Pairs | UserError:
        """Views and masks of a range; the StorageError, returned, where a shard cannot be read."""
        pairs, bad = [], []
        for sample in index:
            try:
                pairs.append(self.view(sample))
            except SampleError as error:
                bad.append(BadSample(sample, str(error)))
            except UserError as error:
                return error
        if not pairs:
            return Pairs(None, None, bad)
        images, masks = (stack(list(part)) for part in zip(*pairs, strict=True))
        return Pairs(images, masks, bad)

    def view(self, sample: int) -> tuple[Tensor, Tensor]:
        """View [c h w] and mask [h w] of a sample; the mask is resized by nearest pixels."""
        image, mask = self.images[sample], torch.from_numpy(self.masks[sample])
        if image.shape[-2:] != mask.shape:
            shapes = f"{list(mask.shape)} pixels, the image {list(image.shape[-2:])}"
            raise SampleError(f"{self.images.manifest.name(sample)}: the mask has {shapes}")
        return center_view(image, self.img_size, self.crop_pct), self._mask(mask)

    def _mask(self, mask: Tensor) -> Tensor:
        """The part of a mask [h w] that the view of its image shows."""
        mask = trim(mask)
        fit = center_fit(mask.shape[0], mask.shape[1], self.img_size, self.crop_pct)
        size = fit.height, fit.width
        nearest = F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]
        return cut(nearest, fit, self.img_size)


def patch_classes(masks: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Class of most pixels of each patch: uint8 [b h w] → int64 [b n].

    IGNORE pixels do not count; patches of nothing else are IGNORE.  Ties: the smallest class.
    """
    pixels = patchify(masks[:, None], patch_size).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int32, device=masks.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=torch.int32))
    counts[..., IGNORE] = 0
    most, winner = counts.max(dim=2)
    return torch.where(most > 0, winner, IGNORE)


class Quality(NamedTuple):
    """Mean IoU and accuracy, 0 to 1."""

    mean_iou: float
    """mean over classes of intersection over union (as in PASCAL VOC, Everingham et al. 2015)"""
    accuracy: float
    """share of the pixels that are classified correctly"""


class SegmentationScores(NamedTuple):
    """Mean IoU and accuracy with 95 % bootstrap intervals over images."""

    mean_iou: float
    mean_iou_interval: tuple[float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]


def count(predicted: Tensor, truth: Tensor, classes: int) -> Counts:
    """Counts of a batch from predicted classes and true ones, or IGNORE: int64 [b …] each."""
    predicted, truth = predicted.flatten(1), truth.flatten(1)
    valid = truth != IGNORE
    rows = []
    for guess, true, ok in zip(predicted, truth, valid, strict=True):
        guess, true = guess[ok], true[ok]
        parts = (guess[guess == true], guess, true)
        rows.append(torch.stack([part.bincount(minlength=classes) for part in parts], dim=1))
    return torch.stack(rows).cpu().numpy()


def quality(counts: npt.NDArray) -> Quality:
    """Mean IoU and accuracy of summed counts [classes 3], over classes predicted or true."""
    right, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = predicted + true - right
    present = union > 0
    iou = right[present] / union[present]
    return Quality(
        float(iou.mean()) if present.any() else 0.0, float(right.sum() / max(1, true.sum()))
    )


def score_counts(counts: Counts, seed: int) -> SegmentationScores:
    """Scores over all images, with intervals by bootstrap over images (Efron 1979)."""
    low, high = np.percentile(sampled(counts, seed), [2.5, 97.5], axis=0).tolist()
    found = quality(counts.sum(axis=0))
    return SegmentationScores(found.mean_iou, (low[0], high[0]), found.accuracy, (low[1], high[1]))


def compare(counts: Counts, other: Counts, seed: int) -> dict[str, Any]:
    """Differences of the scores of `counts` and `other`, with paired bootstrap intervals."""
    change = np.subtract(quality(counts.sum(axis=0)), quality(other.sum(axis=0))).tolist()
    drawn = sampled(counts, seed) - sampled(other, seed)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0).tolist()
    return {
        "mean_iou_difference": change[0],
        "mean_iou_interval": [low[0], high[0]],
        "difference": change[1],
        "interval": [low[1], high[1]],
    }


def sampled(counts: Counts, seed: int) -> npt.NDArray[np.float64]:
    """Scores [RESAMPLES 2] of bootstrap resamples; `seed` alone determines the images drawn."""
    return np.array([quality(total) for total in resampled(counts, seed)])


def resampled(counts: Counts, seed: int) -> npt.NDArray[np.float64]:
    """Summed counts [RESAMPLES classes 3] of bootstrap resamples of the images."""
    n = len(counts)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return (drawn @ counts.reshape(n, -1)).reshape(RESAMPLES, *counts.shape[1:]).astype(np.float64)
