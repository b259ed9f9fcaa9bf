"""Masks of shards: ground truth per pixel and patch, cropped and resized like the images."""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import SampleError, UserError
from mae.base.redaction import redacted
from mae.data.images import BadSample, Images
from mae.data.scan import MASKS
from mae.data.shard_reader import ShardReader
from mae.data.tar_members import walk
from mae.data.transform import center_fit, center_view, cut, stack, trim
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import read_info
from mae.decoding.mask_files import COLOUR, StoredMask, orientation, read_mask
from mae.decoding.pixels import EXTENSIONS as IMAGES
from mae.decoding.pixels import BadImage
from mae.evaluation.mask_classes import IGNORE, MaskClasses
from mae.evaluation.mask_survey import Summary, Survey, summarise
from mae.networks.patches import patchify
from mae.storage.remote import is_remote

NAMES = ("mask", "masks", "seg", "label", "gt")
"""first part of the extension of files that are masks, or meant to be"""

REFUSE, SKIP, BACKGROUND = "refuse", "skip", "background"
"""treatments of images without a mask"""

PART = 32
"""masks surveyed at a time"""


class Masks:
    """Masks of the images of a manifest, by the same numbers: `KEY.mask.png` or `.seg.png`."""

    def __init__(
        self, images: Images, key: str, *, unmasked: str = REFUSE, by_colour: bool = False
    ) -> None:
        """Scan all shards for masks.

        `key` names the data in messages.  `by_colour`: gray levels and palette indices are read
        as their colours.  UserError for more than one mask of an image, for none where `unmasked`
        is REFUSE, and where no image has one.
        """
        manifest, cache = images.manifest, images.reader.cache
        self.key, self.unmasked, self.by_colour = key, unmasked, by_colour
        offset = np.zeros(len(manifest), np.int64)
        size, crc = np.zeros(len(manifest), np.uint32), np.zeros(len(manifest), np.uint32)
        others: set[str] = set()
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
                        if name in number and second.lower() in NAMES:
                            others.add(f".{extension}")
                        continue
                    sample = number[name]
                    if size[sample]:
                        raise UserError(f"{key}: {manifest.name(sample)}: more than one mask")
                    offset[sample], size[sample] = member.offset, member.size
                    crc[sample] = zlib.crc32(os.pread(file.fileno(), member.size, member.offset))
        self.missing: npt.NDArray[np.int64] = np.flatnonzero(size == 0)
        """images without a mask"""
        if len(self.missing) and (unmasked == REFUSE or len(self.missing) == len(manifest)):
            found = f"; found {', '.join(sorted(others))}, which is not read" if others else ""
            remedy = "" if len(self.missing) == len(manifest) else "; see --unmasked"
            raise UserError(
                f"{key}: {len(self.missing)} of {len(manifest)} images have no mask "
                f"(.mask.png, .seg.png), first {manifest.name(int(self.missing[0]))}"
                f"{found}{remedy}"
            )
        skipped = self.missing if unmasked == SKIP else []
        self.samples: list[int] = np.setdiff1d(np.arange(len(manifest)), skipped).tolist()
        """images to use"""
        self.manifest = replace(manifest, offset=offset, size=size, crc=crc)
        self.reader = ShardReader(self.manifest, cache)

    def __getitem__(self, sample: int) -> StoredMask | None:
        """Mask of a sample, None where there is none; SampleError, naming it, for a bad one."""
        if not self.manifest.size[sample]:
            return None
        try:
            mask = read_mask(self.reader.read(sample))
            if not self.by_colour:
                return mask
            return StoredMask(mask.colours(), COLOUR, 0xFFFFFF, mask.lossy)
        except BadImage as error:
            raise SampleError(f"{self.manifest.name(sample)}: the mask {error}") from None


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


class Surveyed(NamedTuple):
    """Part of the masks of a data set."""

    masks: list[Summary]
    bad: list[str]
    """shard, key and defect of masks that do not decode"""
    unfit: list[str]
    """the same of masks that do not fit their images"""


class _Summaries(Dataset):
    """Data set: numbers of samples → summaries of their masks."""

    def __init__(self, images: Images, masks: Masks) -> None:
        self.images, self.masks = images, masks

    def __getitem__(self, index: Sequence[int]) -> Surveyed | UserError:
        found = Surveyed([], [], [])
        for sample in index:
            name = self.masks.manifest.name(sample)
            try:
                if (mask := self.masks[sample]) is None:
                    continue
                if reason := self._misfit(sample, mask):
                    found.unfit.append(f"{name}: {reason}")
                found.masks.append(summarise(name, mask))
            except SampleError as error:
                found.bad.append(str(error))
            except UserError as error:
                return error
        return found

    def _misfit(self, sample: int, mask: StoredMask) -> str:
        """Defect of a mask that is not of its image's pixels; "": none is known."""
        data = self.images.reader.read(sample)
        try:
            info = read_info(data, IMAGES[self.images.manifest.kind.item(sample)])
        except BadImage:
            return ""  # named when the image is decoded
        height, width = mask.values.shape
        turn = orientation(data)
        exif = f"EXIF orientation {turn}, which is not applied"
        remedy = "turn the pixels and remove the tag (PIL.ImageOps.exif_transpose)"
        if (info.height, info.width) != (height, width):
            reason = (
                f"the mask has {width} × {height} pixels, the image {info.width} × {info.height}"
            )
            is_turned = turn > 4 and (info.width, info.height) == (height, width)
            return f"{reason} and {exif}: {remedy}" if is_turned else reason
        if turn in (2, 3, 4) or (turn > 4 and height == width):
            return f"the image has {exif}; the mask may be of turned pixels: {remedy}"
        return ""


def survey_masks(images: Images, masks: Masks, survey: Survey, workers: int = 0) -> None:
    """Add all masks to `survey`; bad ones are left to be counted when they are used.

    UserError for masks that do not fit their images, and where none decodes.
    """
    samples = [sample for sample in masks.samples if masks.manifest.size[sample]]
    parts = [samples[start : start + PART] for start in range(0, len(samples), PART)]
    bad: list[str] = []
    unfit: list[str] = []
    for found in load_in_workers(_Summaries(images, masks), parts, workers):
        for mask in found.masks:
            survey.add(masks.key, mask)
        bad += found.bad
        unfit += found.unfit
    if unfit:
        count = f" ({len(unfit)} of {len(samples)} masks)" if len(unfit) > 1 else ""
        raise UserError(f"{masks.key}: {unfit[0]}{count}")
    if len(bad) == len(samples):
        raise UserError(f"{masks.key}: {bad[0]} (none of {len(samples)} masks is readable)")


class Pairs(NamedTuple):
    """Batch of images and masks that decode."""

    images: Tensor | None
    """[b c h w]; None where no pair decodes"""
    masks: Tensor | None
    """uint8 [b h w]"""
    bad: list[BadSample]
    """samples whose image or mask is bad"""


class MaskedViews(Dataset):
    """Data set: sample numbers → centred views and masks, cropped and resized alike."""

    def __init__(
        self,
        images: Images,
        masks: Masks,
        classes: MaskClasses,
        img_size: tuple[int, int],
        crop_pct: float | None,
    ) -> None:
        self.images, self.masks, self.classes = images, masks, classes
        self.img_size, self.crop_pct = img_size, crop_pct

    def __getitem__(self, index: Sequence[int]) -> Pairs | UserError:
        """Views and masks of samples; the StorageError, returned, where a shard is unreadable."""
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
        image, stored = self.images[sample], self.masks[sample]
        if stored is None:
            mask = torch.full(image.shape[-2:], self.classes.background(), dtype=torch.uint8)
        else:
            mask = torch.from_numpy(self.classes.of(stored))
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
