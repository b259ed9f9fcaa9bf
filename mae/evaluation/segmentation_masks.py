"""Masks of shards: ground truth per pixel and patch, cropped and resized like the images."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.divided_work import DividedWork
from mae.base.errors import SampleError, UserError
from mae.base.output import silent
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.images import BadSample, Images, usable
from mae.data.shard_reader import ShardReader
from mae.data.transform import center_fit, center_view, cut, stack, trim
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import read_info
from mae.decoding.mask_files import COLOUR, StoredMask, orientation, read_mask
from mae.decoding.pixels import EXTENSIONS as IMAGES
from mae.decoding.pixels import BadImage
from mae.evaluation.mask_classes import IGNORE, MaskClasses
from mae.evaluation.mask_scan import scan_masks
from mae.evaluation.mask_survey import Summary, Survey, summarise
from mae.evaluation.parts import do_batches
from mae.networks.patches import patchify

REFUSE, SKIP, BACKGROUND, OPTIONAL = "refuse", "skip", "background", "optional"
"""treatments of images without a mask; only with OPTIONAL need no image have one"""

BATCH = 32
"""masks surveyed at a time"""


class Masks:
    """Masks of the images of a manifest, by the same numbers: `KEY.mask.png` or `.seg.png`."""

    def __init__(
        self,
        images: Images,
        key: str,
        *,
        unmasked: str = REFUSE,
        by_colour: bool = False,
        portion: Portion = ALONE,
    ) -> None:
        """Scan all shards for masks, each process of a launch its `portion`.

        `key` names the data in messages.  `by_colour`: gray levels and palette indices are read
        as their colours.  UserError for more than one mask of an image, for none where `unmasked`
        is REFUSE, and where no image has one.
        """
        manifest, cache = images.manifest, images.reader.cache
        self.key, self.unmasked, self.by_colour = key, unmasked, by_colour
        offset, size, crc, others = scan_masks(images, key, portion)
        self.missing: npt.NDArray[np.int64] = np.flatnonzero(size == 0)
        """images without a mask"""
        none = len(self.missing) == len(manifest) and unmasked != OPTIONAL
        if len(self.missing) and (unmasked == REFUSE or none):
            found = f"; found {', '.join(sorted(others))}, which is not read" if others else ""
            remedy = "" if len(self.missing) == len(manifest) else "; see --unmasked"
            raise UserError(
                f"{key}: {len(self.missing)} of {len(manifest)} images have no mask "
                f"(.mask.png, .seg.png), first {manifest.name(int(self.missing[0]))}"
                f"{found}{remedy}"
            )
        skipped = self.missing if unmasked == SKIP else []
        self.samples: npt.NDArray[np.int64] = np.setdiff1d(np.arange(len(manifest)), skipped)
        """images to use"""
        self.manifest = manifest.changed(offset=offset, size=size, crc=crc)
        self.reader = ShardReader(self.manifest, cache)

    def sha256(self) -> str:
        """Checksum of what all masks are: of their lengths and checksums, and of the images."""
        digest = hashlib.sha256(f"{self.manifest.fingerprint} {self.by_colour}".encode())
        for column in (self.samples, self.manifest.size, self.manifest.crc):
            digest.update(np.asarray(column).tobytes())
        return digest.hexdigest()

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


def survey_masks(
    work: DividedWork,
    images: Images,
    masks: Masks,
    survey: Survey,
    workers: int = 0,
    log: Callable[[str], None] = silent,
) -> None:
    """Add all masks to `survey`; bad ones are left to be counted when they are used.

    Each process reads its parts of them.  UserError for masks that do not fit their images, and
    where none decodes.
    """
    samples = masks.samples[masks.manifest.size[masks.samples] > 0]

    def compute(batches: Sequence[range]) -> Iterator[Surveyed]:
        numbers = [samples[batch.start : batch.stop].tolist() for batch in batches]
        return load_in_workers(_Summaries(images, masks), numbers, workers)

    def pack(found: list[Surveyed]) -> bytes:
        of_part = Survey(survey.table)
        for mask in (mask for one in found for mask in one.masks):
            of_part.add(masks.key, mask)
        bad = [line for one in found for line in one.bad]
        unfit = [line for one in found for line in one.unfit]
        return json.dumps([of_part.record(), bad, unfit]).encode()

    name, show = f"survey{masks.key.lstrip('-')}", ProgressLine("reading", "masks", log)
    parts = do_batches(work, name, len(samples), BATCH, compute, pack, show, needs_all=True)
    bad: list[str] = []
    unfit: list[str] = []
    for part in work.results(name, parts):
        of_part, its_bad, its_unfit = json.loads(part)
        survey.add_record(of_part)
        bad += its_bad
        unfit += its_unfit
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
    samples: list[int]
    """numbers of the pairs that decode"""
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
        found = usable(index, self.view)
        if isinstance(found, UserError):
            return found
        if not found.made:
            return Pairs(None, None, [], found.bad)
        images, masks = (stack(list(part)) for part in zip(*found.made.values(), strict=True))
        return Pairs(images, masks, list(found.made), found.bad)

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
