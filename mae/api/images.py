"""Images that a program gives: in memory, as files, in folders or in shards; their views."""

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mae.api.settings import File
from mae.base.device import loader_count
from mae.base.errors import SampleError, UserError
from mae.base.printable import printable
from mae.commands.numbered_images import FileImages, NumberedImages, ShardImages
from mae.config.sections import Config, DataConfig
from mae.data.image_files import image_files, is_image_file
from mae.data.images import BadSample, float_normalisation
from mae.data.opening import open_images
from mae.data.transform import stack
from mae.data.views import evaluation_view
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import decode
from mae.decoding.pillow import CHANNELS, MODES, WITH_ALPHA
from mae.decoding.pixels import FLOAT_BITS, BadImage, Pixels, check_size, convert_pixels
from mae.evaluation.features import Views, ranges, usable_views

Picture = Image.Image | npt.NDArray[Any] | Tensor | File | bytes
"""an image in memory; the path, or the content, of an image file"""
Pictures = Picture | Iterable[Picture] | Dataset[Any]
"""images in any of the ways that `Encoder.embed` takes them"""

GLOB = re.compile(r"[*?\[]")
"""characters of a pattern of file names"""
FEW = 512
"""largest number of files that are decoded in this process: starting others takes a second"""


class ViewBatch(NamedTuple):
    """Views of some of the images."""

    views: Tensor | None
    """[b c h w], integers or normalised floats; None: no image was usable"""
    numbers: list[int]
    """place of each view among the images"""
    bad: list[BadSample]
    """images that are not usable"""


class Reader:
    """Reader of images as a model was trained on them."""

    def __init__(self, config: Config, size: tuple[int, int]) -> None:
        """`config`: settings of the model; `size`: height and width of its images."""
        self.config, self.size = config, size

    def view(self, image: Picture) -> Tensor:
        """View for evaluation [c *size]: integers, or normalised floats with data.bits=32.

        Tensors of floats are taken for such views that are normalised, and returned as they are.
        Raises SampleError where the image cannot be used.
        """
        if isinstance(image, Tensor) and image.is_floating_point():
            wanted = [self.config.data.in_chans, *self.size]
            if list(image.shape) != wanted:
                raise SampleError(
                    f"a tensor of floats of shape {list(image.shape)}: {wanted}, as of "
                    "`transform`, or an image of uint8 expected"
                )
            return image
        if isinstance(image, str | os.PathLike):
            return FileImages([Path(image)], self.config).view(0, self.size)
        try:
            decoded = pixels_of(image, self.config.data)
        except BadImage as error:
            raise SampleError(str(error)) from None
        return evaluation_view(decoded, self.size, self.config)

    def batches(
        self, images: Pictures, batch_size: int, workers: int | None = None
    ) -> Iterator[ViewBatch]:
        """Views of all images, in batches, in order.

        `workers`: processes that decode files and shards (None: none for up to FEW images).
        Raises UserError where `images` are none, or a shard cannot be read.
        """
        found = self.opened(images)
        if not isinstance(found, FileImages | ShardImages):
            yield from self._of_memory(found, batch_size)
            return
        total = len(found)
        if workers is None:
            workers = 0 if total <= FEW else loader_count(None)
        data = _Views(found, self.size)
        for views in load_in_workers(data, ranges(total, batch_size), workers):
            yield ViewBatch(views.images, views.samples, views.bad)

    def opened(self, images: Pictures) -> NumberedImages | Iterable[Picture]:
        """Images of files and shards by number; others one after another.  Raises as `batches`."""
        if isinstance(images, str | os.PathLike):
            return self.open_path(os.fspath(images))
        if isinstance(images, Image.Image | bytes):
            return [images]
        if isinstance(images, np.ndarray | Tensor):
            if images.ndim == 4:
                return images
            raise UserError(
                f"images: one array of shape {list(images.shape)}: a list of images, or an array "
                "of 4 axes, expected; for a single image [image]"
            )
        if isinstance(images, Sequence) and (paths := as_paths(images)):
            return self.open_paths(paths)
        return images if isinstance(images, Iterable) else _items(images)

    def open_path(self, path: str) -> NumberedImages:
        """Images of a file, a folder, a pattern of files, or shards."""
        place = Path(path).expanduser()
        if is_image_file(path) and GLOB.search(path) and not place.exists():
            found = sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
            if not found:
                raise UserError(f"{path}: no such files")
            return FileImages(found, self.config)
        if place.is_dir() or is_image_file(path):
            files = image_files([str(place)])
            return FileImages([file.path for file in files], self.config)
        return self._shards([path])

    def open_paths(self, paths: Sequence[str]) -> NumberedImages:
        """Images of files, in their order, or of shards."""
        if all(map(is_image_file, paths)):
            return FileImages([Path(path).expanduser() for path in paths], self.config)
        return self._shards(paths)

    def _shards(self, sources: Sequence[str]) -> NumberedImages:
        return ShardImages(open_images(sources, "images", self.config), self.config, self.size)

    def _of_memory(self, images: Iterable[Picture], batch_size: int) -> Iterator[ViewBatch]:
        """Views of images one after another; no more than a batch of them is held."""
        rest, first = iter(images), 0
        while batch := list(itertools.islice(rest, batch_size)):
            views: dict[int, Tensor] = {}
            bad = []
            for number, image in enumerate(batch, first):
                try:
                    views[number] = self.view(image)
                except SampleError as error:
                    bad.append(BadSample(number, f"images[{number}]: {error}"))
            if len({view.dtype for view in views.values()}) > 1:
                raise UserError("images: images and tensors of floats, which are views, are mixed")
            yield ViewBatch(stack([*views.values()]) if views else None, [*views], bad)
            first += len(batch)


class _Views(Dataset[Views | UserError]):
    """Ranges of numbers → views of the images that are usable, and the others."""

    def __init__(self, found: NumberedImages, size: tuple[int, int]) -> None:
        self.found, self.size = found, size

    def __getitem__(self, index: range) -> Views | UserError:
        return usable_views(index, lambda number: self.found.view(number, self.size))


def _items(images: Any) -> Iterator[Any]:
    """Items by number, as of a data set of torch; raises UserError where there are none."""
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
        raise UserError(f"images: {type(images).__name__}: images expected, or paths of them")
    return (images[number] for number in range(len(images)))


def as_paths(images: Sequence[Any]) -> list[str]:
    """The images as paths; empty where they are anything else."""
    if not all(isinstance(one, str | os.PathLike) for one in images):
        return []
    return [os.fspath(one) for one in images]


def pixels_of(image: Any, data: DataConfig) -> Tensor:
    """Pixels [c h w] of an image in memory, or of the bytes of a file, as `decode` reads files.

    Arrays are [h w], [h w c] or [c h w] of uint8 or uint16, tensors [h w] or [c h w].  Raises
    BadImage for other things, and where channels or bits do not fit.
    """
    channels, bits = data.in_chans, data.bits
    if isinstance(image, bytes | bytearray):
        return float_normalisation(data).of(decode(image, "", channels, bits))
    if isinstance(image, Image.Image):
        return _converted(_of_pillow(image, channels), data)
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        if values.ndim not in (2, 3):
            raise BadImage(f"a tensor of shape {list(values.shape)}: [c h w] expected")
        values = values[None] if values.ndim == 2 else values
        image = np.ascontiguousarray(values.permute(1, 2, 0).numpy())
        if image.dtype in (np.uint8, np.uint16):
            return _converted(Pixels(image, False), data)
    if isinstance(image, np.ndarray):
        if image.dtype.kind == "f" and bits != FLOAT_BITS:
            raise BadImage(
                f"{image.dtype} values: uint8 or uint16 expected, such as "
                "(255 * image).round().astype(numpy.uint8) of values from 0 to 1"
            )
        if image.dtype.hasobject:
            raise BadImage("an array of objects: uint8 or uint16 expected")
        file = io.BytesIO()
        np.save(file, image, allow_pickle=False)
        # Written as a file, it is checked and converted as one: the axis of the channels too.
        return float_normalisation(data).of(decode(file.getvalue(), "npy", channels, bits))
    raise BadImage(f"{_kind(image)}: an image, an array or a path expected")


def _converted(pixels: Pixels, data: DataConfig) -> Tensor:
    check_size(*pixels.values.shape)
    values = convert_pixels(pixels, data.in_chans, data.bits)
    return float_normalisation(data).of(torch.from_numpy(values).permute(2, 0, 1))


def _of_pillow(image: Image.Image, channels: int) -> Pixels:
    """Pixels of an open image, converted as those of its file."""
    try:
        if image.mode == "F":
            raise BadImage("an image of floats (mode F): 8 or 16 bits expected")
        if image.mode == "I" or image.mode.startswith("I;16"):
            values = np.asarray(image)
            if values.size and not 0 <= values.min() <= values.max() <= 65535:
                raise BadImage("has values beyond 16 bits")
            return Pixels(values.astype(np.uint16)[..., None], False)
        stored = channels if channels in (1, 3) else CHANNELS.get(image.mode, 3)
        values = np.array(image.convert(MODES[stored]))
    except OSError as error:
        name = getattr(image, "filename", "")
        raise BadImage(f"{printable(str(name))}: does not decode: {error}".lstrip(": ")) from None
    return Pixels(values.reshape(image.height, image.width, stored), stored in WITH_ALPHA)


def _kind(image: object) -> str:
    if isinstance(image, tuple):
        return "a tuple (of an image and its label?)"
    return f"a {type(image).__name__}"
