"""Thumbnails of images, and digests of their pixels."""

import hashlib
import io
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.data.images import Images
from mae.decoding.decode import decode, read_info
from mae.decoding.pixels import EXTENSIONS
from mae.evaluation.parts import pack_columns, unpack_columns
from mae.pictures.drawing import displayable, to_pil

SIDE = 64
"""maximum side of a thumbnail in pixels"""
QUALITY = 90
"""of its JPEG"""
DIGEST = 16
"""bytes of a digest"""


class Thumbnail(NamedTuple):
    """Small picture of an image, and what identifies its pixels."""

    file: bytes
    """JPEG or PNG"""
    digest: bytes
    """of the pixels in their own channels and depth: equal for images with equal ones"""


class Thumbnails(Dataset):
    """Data set: sample numbers → their thumbnails."""

    def __init__(self, images: Images, samples: Sequence[int]) -> None:
        self.images, self.samples = images, samples

    def __getitem__(self, index: range) -> list[Thumbnail] | UserError:
        """Thumbnails of some of the samples; the UserError, returned, for an unusable one."""
        found = []
        for place in index:
            try:
                found.append(self._thumbnail(int(self.samples[place])))
            except UserError as error:
                return error
        return found

    def _thumbnail(self, sample: int) -> Thumbnail:
        data = self.images.reader.read(sample)
        image = self.images.decoded(sample, data)
        digest = pixel_digest(_stored(self.images, sample, data, image))
        return Thumbnail(encoded(thumbnail(image)), digest)


def _stored(images: Images, sample: int, data: bytes | bytearray, image: Tensor) -> Tensor:
    """Pixels in their own channels and depth: `image`, as it was read, or decoded again."""
    extension = EXTENSIONS[images.manifest.kind.item(sample)]
    info = read_info(data, extension, images.channels)
    if (info.channels, info.bits) == (images.channels, images.bits) and not images.normalisation:
        return image
    return decode(data, extension, info.channels, info.bits)


def thumbnail(image: Tensor, side: int = SIDE) -> Image.Image:
    """RGB picture, its longest side `side` pixels at most, of integers [c h w]."""
    height, width = image.shape[1:]
    factor = min(1.0, side / max(height, width))
    if factor < 1:
        size = max(1, round(height * factor)), max(1, round(width * factor))
        # Before 16 bits are stretched: percentiles of few pixels cost little.
        reduced = F.interpolate(image[None].float(), size=size, mode="area")
        image = reduced[0].round().to(torch.int32).to(image.dtype)
    return to_pil(displayable(image[None])[0])


def encoded(picture: Image.Image) -> bytes:
    """The smaller one of PNG and JPEG; gray where all pixels are."""
    red, green, blue = picture.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        picture = red
    lossless, lossy = io.BytesIO(), io.BytesIO()
    picture.save(lossless, "PNG")
    picture.save(lossy, "JPEG", quality=QUALITY, subsampling=0)
    return min(lossless.getvalue(), lossy.getvalue(), key=len)


def pixel_digest(image: Tensor) -> bytes:
    """Digest of the type, size and values of pixels [c h w]."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    digest.update(f"{image.dtype} {list(image.shape)}".encode())
    digest.update(image.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def pack_thumbnails(batches: Sequence[Sequence[Thumbnail]]) -> bytes:
    """Thumbnails of a part of divided work, as columns."""
    found = [one for batch in batches for one in batch]
    columns = {
        "size": np.array([len(one.file) for one in found], np.int64),
        "file": np.frombuffer(b"".join(one.file for one in found), np.uint8),
        "digest": np.frombuffer(b"".join(one.digest for one in found), np.uint8),
    }
    return pack_columns(columns, [])


def unpack_thumbnails(part: bytes) -> list[Thumbnail]:
    """Thumbnails that `pack_thumbnails` packed."""
    columns = unpack_columns(part).columns
    sizes = columns["size"].tolist()
    file, digests = columns["file"].tobytes(), columns["digest"].tobytes()
    return [
        Thumbnail(file[end - size : end], digests[place * DIGEST : (place + 1) * DIGEST])
        for place, (size, end) in enumerate(zip(sizes, accumulate(sizes), strict=True))
    ]
