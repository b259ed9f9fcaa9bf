"""Classes per pixel: masks that lie beside the images in their shards."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import SampleError, UserError
from mae.data.images import BadSample, Images
from mae.data.scan import split_name, walk
from mae.data.shard_reader import ShardReader
from mae.data.transform import apply_view, center_box, stack
from mae.networks.pixels import patchify
from mae.storage.files import is_remote, redacted

EXTENSIONS = ("mask.png", "seg.png")
IGNORE = 255
"""what a mask says of pixels that belong to no class"""

MODES = ("1", "L", "P")
"""of PNGs: the class is the gray value, or the number in the palette"""


class Masks:
    """The mask of each image of a manifest, by the same numbers: `KEY.mask.png` or `.seg.png`."""

    def __init__(self, images: Images, key: str) -> None:
        """Look all shards through; UserError, naming `key`, unless each image has one mask."""
        manifest, cache = images.manifest, images.reader.cache
        offset = np.zeros(len(manifest), np.int64)
        size, crc = np.zeros(len(manifest), np.uint32), np.zeros(len(manifest), np.uint32)
        for shard, location in enumerate(manifest.shards):
            first = int(manifest.first[shard])
            names = manifest.keys[shard].decode("utf-8", "surrogateescape").split("\0")
            number = {name: first + i for i, name in enumerate(names)}
            with _local_copy(images, shard) as path, path.open("rb") as file:
                for member in walk(path, redacted(location)):
                    name, extension = split_name(member.name)
                    if extension not in EXTENSIONS or name not in number:
                        continue
                    sample = number[name]
                    if size[sample]:
                        raise UserError(f"{key}: {manifest.name(sample)}: more than one mask")
                    offset[sample], size[sample] = member.offset, member.size
                    crc[sample] = zlib.crc32(os.pread(file.fileno(), member.size, member.offset))
        if len(missing := np.flatnonzero(size == 0)):
            raise UserError(
                f"{key}: {len(missing)} of {len(manifest)} images have no mask "
                f"(.{', .'.join(EXTENSIONS)}), first {manifest.name(int(missing[0]))}"
            )
        self.manifest = replace(manifest, offset=offset, size=size, crc=crc)
        self.reader = ShardReader(self.manifest, cache)

    def __getitem__(self, sample: int) -> npt.NDArray[np.uint8]:
        """[h w]; SampleError, naming shard and key, for what is no mask."""
        name = self.manifest.name(sample)
        try:
            with Image.open(io.BytesIO(self.reader.read(sample)), formats=("PNG",)) as mask:
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
        """All classes that occur, ascending; reads every mask, and passes by bad ones."""
        seen = np.zeros(256, bool)
        for sample in range(len(self.manifest)):
            with suppress(SampleError):  # left out and counted where its image is asked for
                seen[self[sample]] = True
        seen[IGNORE] = False
        return np.flatnonzero(seen)


@contextmanager
def _local_copy(images: Images, shard: int) -> Iterator[Path]:
    """A path to read a shard from: its own, or that of a cached copy."""
    manifest, cache = images.manifest, images.reader.cache
    location = manifest.shards[shard]
    if not is_remote(location) or cache is None:
        yield Path(location)
        return
    held = {"size": manifest.shard_bytes[shard], "sha256": manifest.sha256[shard]}
    with cache.open(location, **held) as copy:
        yield Path(f"/dev/fd/{copy.fileno()}")


class Pairs(NamedTuple):
    """Images and masks that can be used."""

    images: Tensor | None
    """[b c h w]; None where there is no pair"""
    masks: Tensor | None
    """uint8 [b h w]"""
    bad: list[BadSample]
    """the image or its mask is bad"""


class MaskedViews(Dataset):
    """Ranges of sample numbers → centred views and their masks, cut and resized alike."""

    def __init__(
        self, images: Images, masks: Masks, img_size: tuple[int, int], crop_pct: float
    ) -> None:
        self.images, self.masks = images, masks
        self.img_size, self.crop_pct = img_size, crop_pct

    def __len__(self) -> int:
        return len(self.images.manifest)

    def __getitem__(self, index: range) -> Pairs | UserError:
        """A shard that cannot be read comes back as a value, a StorageError."""
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
        """One view, [c h w], and its mask, [h w], by nearest pixels: classes do not mix."""
        image, mask = self.images[sample], torch.from_numpy(self.masks[sample])
        if image.shape[-2:] != mask.shape:
            shapes = f"{list(mask.shape)} pixels, the image {list(image.shape[-2:])}"
            raise SampleError(f"{self.images.manifest.name(sample)}: the mask has {shapes}")
        height, width = mask.shape
        box = center_box(height, width, self.img_size, self.crop_pct)
        part = mask[box.top : box.top + box.height, box.left : box.left + box.width]
        nearest = F.interpolate(part[None, None], size=self.img_size, mode="nearest-exact")
        return apply_view(image, box, self.img_size), nearest[0, 0]


def patch_classes(masks: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """The class of most pixels of each patch: uint8 [b h w] → int64 [b n].

    Pixels of IGNORE do not count, and patches of nothing else are IGNORE; of classes with equally
    many pixels the smallest is taken.
    """
    pixels = patchify(masks[:, None], patch_size).long()
    counts = torch.zeros(*pixels.shape[:2], 256, dtype=torch.int32, device=masks.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=torch.int32))
    counts[..., IGNORE] = 0
    most, winner = counts.max(dim=2)
    return torch.where(most > 0, winner, IGNORE)
