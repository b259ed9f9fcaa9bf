"""One shard of `mae pack`: a pure function of the listing, the options and the shard's number.

Images are made smaller on request (`--resize`, `--quality`):
8 bits and 1 or 3 channels become JPEG (where a quality is asked for, or they are JPEG or lossy WebP
already) or PNG; with alpha always PNG.  All else becomes `.npy`, [h w c] in its own depth, without
alpha, which nothing would mark there.  Images that are small enough keep their bytes, unless a
quality is asked for and saves some.
"""

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from PIL import Image
from torch import Tensor

from mae.base.errors import RunFailed, SampleError, UserError
from mae.data.transform import center_view
from mae.decoding.arrays import MAGIC, array_shape, check_axes
from mae.decoding.decode import decode, read_info
from mae.decoding.pillow import MODES, is_lossy
from mae.decoding.pixels import BadImage
from mae.pack.duplicates import content_digest
from mae.pack.examine import examine
from mae.pack.plan import PackOptions, ShardTask, key_of, report_file, save_report
from mae.pack.sources import UNKNOWN, Listing

QUALITY = 90
VIEW = 224


class Encoded(NamedTuple):
    """An image file, in memory."""

    data: bytes | bytearray
    extension: str


def recode(source: Encoded, resize: int | None = None, quality: int | None = None) -> Encoded:
    """`source` with a short side of at most `resize` pixels, as JPEG of `quality` where it can be.

    Raises BadImage for bytes that do not decode, and for arrays whose axes cannot be told apart.
    """
    if resize is None and quality is None:
        return source
    info = read_info(source.data, source.extension)
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
    data = _save(image, "JPEG", quality=quality or QUALITY, subsampling="4:2:0")
    if not smaller and lossy and len(data) >= len(source.data):
        return source
    return Encoded(data, "jpg")


def pixel_cost(source: Encoded, stored: Encoded, resize: int | None = None) -> float:
    """Mean absolute difference, of 255, between the centred views of both, alpha left out.

    The view is a square of 224 pixels, or of `resize` where that is less.
    """
    side = min(VIEW, resize or VIEW)
    views = []
    for encoded in (source, stored):
        info = read_info(encoded.data, encoded.extension)
        pixels = decode(encoded.data, encoded.extension, info.colours, info.bits)
        full = torch.iinfo(pixels.dtype).max
        view = center_view(pixels.float(), (side, side), crop_pct=1.0)
        views.append(view.clamp(0, full) * (255 / full))
    return float((views[0] - views[1]).abs().mean())


def _reduced(height: int, width: int, resize: int | None) -> tuple[int, int]:
    """Height and width with a short side of at most `resize`."""
    short = min(height, width)
    if resize is None or short <= resize:
        return height, width
    scale = resize / short
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(pixels: Tensor, size: tuple[int, int]) -> Image.Image:
    """Pillow's bicubic of uint8 [c h w], 1 to 4 channels, to height and width `size`."""
    # Each channel by itself: of an image with alpha Pillow would weigh the colours by it.
    bands = [Image.fromarray(np.ascontiguousarray(band.numpy())) for band in pixels]
    if bands[0].size != size[::-1]:
        bands = [band.resize(size[::-1], Image.Resampling.BICUBIC) for band in bands]
    return Image.merge(MODES[len(bands)], bands)


def _resize_deep(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, of any depth and number of channels: [c h w] → [c *size]."""
    smooth = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True)[0]
    full = torch.iinfo(pixels.dtype).max
    return smooth.round().clamp(0, full).to(torch.int32).to(pixels.dtype)


def _npy(pixels: Tensor) -> bytes:
    channels, height, width = pixels.shape
    if channels > height:  # nobody could tell the axes of what is written
        shape = [height, width, channels]
        raise BadImage(f"shape {shape} after --resize: more channels than rows; choose a larger")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), allow_pickle=False)
    return file.getvalue()


def _save(image: Image.Image, format: str, **options: int | str) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


MEASURED = 64


class ShardWriter(NamedTuple):
    """Writes shards into `folder`; goes to every worker process."""

    listing: Listing
    options: PackOptions
    folder: Path

    def write(self, task: ShardTask) -> None:
        """Write the shard and then, as a sign that it is whole, its report."""
        rows: list[tuple] = []
        skipped: list[tuple[int, str]] = []
        shard = self.folder / f"{task.name}.tar"
        temporary = self.folder / f"{task.name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            # Fixed owner and time: packing twice gives the same bytes.
            fixed = {"encoder": False, "mtime": 0, "user": "mae", "group": "mae"}
            with webdataset.TarWriter(file, **fixed) as tar:
                for position, number in enumerate(task.images.tolist(), task.first):
                    measured = task.split == "train" and position < MEASURED
                    try:
                        stored, row = self._prepare(number, measured)
                    except (BadImage, SampleError) as error:
                        skipped.append((number, str(error)))
                        continue
                    except UserError:
                        raise
                    except Exception as error:  # a fault of ours: which file meets it is half of it
                        file_name = self.listing.reader.name(self.listing.sources[number].reference)
                        what = f"{type(error).__name__}: {error}"
                        raise RunFailed(f"{self.listing.name}: {file_name}: {what}") from error
                    record: dict[str, str | bytes | bytearray] = {
                        "__key__": key_of(task.split, position),
                        stored.extension: stored.data,
                    }
                    label = self.listing.sources[number].label
                    if label is not None:
                        record["cls"] = str(label).encode()
                    tar.write(record)
                    rows.append((number, position, *row))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(shard) if rows else temporary.unlink()
        save_report(report_file(self.folder, task), rows, skipped)

    def _prepare(self, number: int, measured: bool) -> tuple[Encoded, tuple]:
        """The image as it is stored, and its row of the report from `bytes_in` on."""
        listing, options = self.listing, self.options
        source = listing.sources[number]
        data = listing.reader.read(source.reference)
        if listing.sizes[number] not in (UNKNOWN, len(data)):
            name = listing.reader.name(source.reference)
            raise UserError(f"{listing.name}: {name}: changed while it was packed")
        found = examine(data, source.extension)
        original = Encoded(data, source.extension)
        stored = recode(original, options.resize, options.quality)
        cost = np.nan
        info = found.info
        if stored is not original:
            info = read_info(stored.data, stored.extension)
            cost = pixel_cost(original, stored, options.resize) if measured else np.nan
        elif measured and (options.resize or options.quality):
            cost = 0.0
        digest = tuple(np.frombuffer(content_digest(data), "<u8").tolist())
        look = (found.look or 0, found.look is not None)
        kind = (info.height, info.width, info.colours, info.bits)
        return stored, (len(data), len(stored.data), *kind, digest, *look, cost)
