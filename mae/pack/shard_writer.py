"""Writing of one shard of `mae pack`, and re-encoding of its images (`--resize`, `--quality`).

A shard depends only on the listing, the options and its own number.  Re-encoded images of 8 bits
and 1 or 3 channels become JPEG (with `--quality`, or where they were JPEG or lossy WebP) or PNG;
with alpha always PNG.  All others become `.npy`, [h w c] in their own depth, without alpha, which
an array cannot mark.  Images that are small enough keep their bytes, unless `--quality` is given
and makes the file smaller.
"""

import io
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from PIL import Image
from torch import Tensor

from mae.base.errors import RunFailed, SampleError, StorageError, UserError
from mae.base.files import discard
from mae.base.printable import printable
from mae.data.index import shard_index
from mae.data.transform import center_view
from mae.decoding.arrays import MAGIC, array_shape, check_axes
from mae.decoding.decode import decode, read_info
from mae.decoding.mask_files import read_mask
from mae.decoding.pillow import MODES, is_lossy
from mae.decoding.pixels import FLOAT_BITS, BadImage
from mae.pack.duplicates import content_digest
from mae.pack.examine import examine
from mae.pack.listing import UNKNOWN_SIZE, Listing
from mae.pack.shard_plan import PackOptions, ShardTask, sample_key
from mae.pack.shard_reports import IMAGE_ROW, ShardReport, to_bytes

DEFAULT_QUALITY = 90
"""JPEG quality of images that are resized without a quality"""
VIEW_SIZE = 224
"""side in pixels of the square in which pixel costs are measured"""
MEASURED = 64
"""number of training images whose pixel cost is measured"""


class Encoded(NamedTuple):
    """Image file in memory."""

    data: bytes | bytearray
    extension: str


def recode(source: Encoded, resize: int | None = None, quality: int | None = None) -> Encoded:
    """Reduce `source` to a short side of at most `resize` pixels and re-encode it.

    Returns `source` itself where nothing is to be gained; see the module on formats.
    Raises BadImage for bytes that do not decode, and for arrays whose channel axis is ambiguous.
    """
    if resize is None and quality is None:
        return source
    info = read_info(source.data, source.extension)
    if info.bits == FLOAT_BITS:
        raise BadImage("holds floats, which are neither resized nor encoded anew")
    simple = info.bits == 8 and info.colours in (1, 3)
    size = _reduced(info.height, info.width, resize)
    smaller = size != (info.height, info.width)
    pixels = decode(source.data, source.extension, info.channels, info.bits)
    if not smaller and (quality is None or not simple or info.alpha):
        return source
    if smaller and source.data[:6] == MAGIC:
        check_axes(array_shape(source.data))
    if not simple:
        return Encoded(_npy(_resize_deep(pixels[: info.colours], size)), "npy")
    image = _resize(pixels, size)
    lossy = is_lossy(source.data)
    if info.alpha or (quality is None and not lossy):
        return Encoded(_save(image, "PNG"), "png")
    data = _save(image, "JPEG", quality=quality or DEFAULT_QUALITY, subsampling="4:2:0")
    if not smaller and lossy and len(data) >= len(source.data):
        return source
    return Encoded(data, "jpg")


def pixel_cost(source: Encoded, stored: Encoded, resize: int | None = None) -> float:
    """Mean absolute difference of both images' pixels, in [0, 255], without alpha.

    Measured in their central squares, resized to VIEW_SIZE, or to `resize` if that is smaller.
    """
    side = min(VIEW_SIZE, resize or VIEW_SIZE)
    views = []
    for encoded in (source, stored):
        info = read_info(encoded.data, encoded.extension)
        pixels = decode(encoded.data, encoded.extension, info.colours, info.bits)
        full = torch.iinfo(pixels.dtype).max
        view = center_view(pixels.float(), (side, side), crop_pct=1.0)
        views.append(view.clamp(0, full) * (255 / full))
    return float((views[0] - views[1]).abs().mean())


def _reduced(height: int, width: int, resize: int | None) -> tuple[int, int]:
    """Height and width reduced to a short side of at most `resize`."""
    short = min(height, width)
    if resize is None or short <= resize:
        return height, width
    scale = resize / short
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """Resize uint8 [c h w], 1 to 4 channels, to (height, width) by Pillow's bicubic filter."""
    # Each channel by itself: with an alpha channel, Pillow would weight the colours by it.
    bands = [Image.fromarray(np.ascontiguousarray(band.numpy())) for band in pixels]
    if bands[0].size != size[::-1]:
        bands = [band.resize(size[::-1], Image.Resampling.BICUBIC) for band in bands]
    return Image.merge(MODES[len(bands)], bands)


def _resize_deep(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [c h w] of any depth to [c *size], bicubic with antialiasing."""
    smooth = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True)[0]
    full = torch.iinfo(pixels.dtype).max
    return smooth.round().clamp(0, full).to(torch.int32).to(pixels.dtype)


def _npy(pixels: Tensor) -> bytes:
    channels, height, width = pixels.shape
    if channels > height:  # its channel axis would be ambiguous
        shape = [height, width, channels]
        raise BadImage(f"shape {shape} after --resize: more channels than rows; choose a larger")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), allow_pickle=False)
    return file.getvalue()


def _save(image: Image.Image, format: str, **options: int | str) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


class ShardWriter(NamedTuple):
    """Writer of shards into `shards`; sent to every worker process."""

    listing: Listing
    options: PackOptions
    shards: Path
    temporary: Path
    """folder of the same file system, for shards until they are whole"""

    def write(self, task: ShardTask) -> bytes:
        """Write the shard, and its index beside it; its report, as `to_bytes`.

        Raises StorageError where a source file has changed, RunFailed for an internal error, naming
        the file.
        """
        rows: list[tuple] = []
        skipped: list[tuple[int, str]] = []
        part = self.temporary / f"{task.name}.{secrets.token_hex(4)}.part"
        try:
            with part.open("wb") as file:
                # Fixed owner and time, so that packing twice gives the same bytes.
                fixed = {"encoder": False, "mtime": 0, "user": "mae", "group": "mae"}
                with webdataset.TarWriter(file, **fixed) as tar:
                    for position, number in enumerate(task.images.tolist(), task.first):
                        try:
                            record, row = self._sample(task.split, position, number)
                        except (BadImage, SampleError) as error:
                            skipped.append((number, str(error)))
                            continue
                        tar.write(record)
                        rows.append((number, position, *row))
                file.flush()
                os.fsync(file.fileno())
            if rows:
                shard = self.shards / task.name
                part.replace(shard)
                shard_index(str(shard))
        finally:
            discard(part)
        return to_bytes(
            ShardReport(
                images=np.array(rows, IMAGE_ROW),
                skipped=np.array([number for number, _ in skipped], np.int64),
                reasons=np.array([reason for _, reason in skipped], np.str_),
            )
        )

    def _sample(
        self, split: str, position: int, number: int
    ) -> tuple[dict[str, str | bytes | bytearray], tuple]:
        """WebDataset's record of an image, and its IMAGE_ROW from `bytes_in` on."""
        try:
            stored, row = self._prepare(number, split == "train" and position < MEASURED)
            mask = self._mask(number, row)
        except (BadImage, UserError):
            raise
        except Exception as error:  # an internal error: name the file that caused it
            what = f"{type(error).__name__}: {error}"
            name = self.listing.name_of(number)
            raise RunFailed(f"{self.listing.name}: {name}: {what}") from error
        record: dict[str, str | bytes | bytearray] = {
            "__key__": sample_key(split, position),
            stored.extension: stored.data,
        }
        label = self.listing.sources[number].label
        if label is not None:
            record["cls"] = str(label).encode()
        if mask is not None:
            record["mask.png"] = mask
        return record, row

    def _prepare(self, number: int, measured: bool) -> tuple[Encoded, tuple]:
        """Image as stored, and its IMAGE_ROW from `bytes_in` on."""
        listing, options = self.listing, self.options
        source = listing.sources[number]
        data = listing.reader.read(source.reference)
        if listing.sizes[number] not in (UNKNOWN_SIZE, len(data)):
            name = listing.name_of(number)
            raise StorageError(f"{listing.name}: {name}: changed during packing")
        properties = examine(data, source.extension)
        original = Encoded(data, source.extension)
        stored = recode(original, options.resize, options.quality)
        cost = np.nan
        info = properties.info
        if stored is not original:
            info = read_info(stored.data, stored.extension)
            cost = pixel_cost(original, stored, options.resize) if measured else np.nan
        elif measured and (options.resize or options.quality):
            cost = 0.0
        digest = tuple(np.frombuffer(content_digest(data), "<u8").tolist())
        difference_hash = (properties.hash or 0, properties.hash is not None)
        kind = (info.height, info.width, info.colours, info.bits)
        look = (*difference_hash, properties.deviation)
        return stored, (len(data), len(stored.data), *kind, digest, *look, cost)

    def _mask(self, number: int, row: tuple) -> bytes | None:
        """The image's mask, as it is; BadImage where it is none of the image's size."""
        reference = self.listing.sources[number].mask
        if reference is None:
            return None
        data = self.listing.reader.read(reference)
        try:
            height, width = read_mask(data).values.shape
        except BadImage as error:
            raise BadImage(f"mask {printable(reference)}: {error}") from None
        if (height, width) != (row[2], row[3]):
            sizes = f"{width} x {height} pixels, the image {row[3]} x {row[2]}"
            raise BadImage(f"mask {printable(reference)}: {sizes}")
        return data
