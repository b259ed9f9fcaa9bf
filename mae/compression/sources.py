"""Images to compress, by number: of files, or of shards; and the files that they become."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.base.files import file_content, file_identity
from mae.base.hashing import Stream, fold
from mae.base.redaction import file_name
from mae.compression.container import ENDING, Kind, is_safe
from mae.data.image_files import ImageFile
from mae.data.images import Images
from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pillow import has_transparent_colour
from mae.decoding.pixels import EXTENSIONS, BadImage, colours_for

ONE_FILE = f"images{ENDING}"
"""name of the file of all images of a command"""
SHARDS = 8
"""number of shards that a sample of the images is taken from"""


class Group(NamedTuple):
    """Images of one file of compressed images."""

    file: str
    first: int
    stop: int
    has_names: bool
    """False: the image has the name of the file"""


class Picture(NamedTuple):
    """Decoded image: what a model takes, and what its file had."""

    pixels: Tensor
    """uint8 or uint16 [c h w], in the model's channels and bits"""
    kind: Kind


class Source(NamedTuple):
    """Images by number."""

    groups: Sequence[Group]
    name: Callable[[int], str]
    """name in results, of which none is there twice in a group"""
    read: Callable[[int], tuple[bytes, str]]
    """content and extension of the file; SampleError or StorageError where it cannot be read"""
    identity: object
    """tells these images from others, as JSON"""
    parts: Sequence[tuple[int, int]]
    """first and stop of images that lie in one place"""

    def __len__(self) -> int:
        return self.groups[-1].stop

    def group_of(self, number: int) -> int:
        """Number of the group that holds an image."""
        return bisect_right(self.groups, number, key=lambda group: group.first) - 1

    def picture(self, number: int, channels: int, bits: int) -> Picture:
        """Decoded image; raises SampleError where it cannot be used."""
        data, extension = self.read(number)
        try:
            return read_picture(data, extension, channels, bits)
        except BadImage as error:
            raise SampleError(str(error)) from None

    def sample(self, most: int) -> Iterator[int]:
        """Yield the numbers of up to `most` images, from few places, in random order."""
        chosen = np.unique(np.linspace(0, len(self.parts) - 1, SHARDS).round().astype(int))
        is_of_shards = len(self.parts) < len(self)
        places = [self.parts[one] for one in chosen] if is_of_shards else [(0, len(self))]
        numbers = np.concatenate([np.arange(first, stop) for first, stop in places])
        order = np.argsort(fold(0, Stream.PANEL, numbers, 3), kind="stable")
        yield from numbers[order][:most].tolist()


def read_picture(data: bytes, extension: str, channels: int, bits: int) -> Picture:
    """Decode an image file for a model of `channels` and `bits`.

    Gray images go through a model of three channels as gray colours.  Raises BadImage for files
    that do not decode, hold transparent pixels, more bits or other channels.
    """
    info = read_info(data, extension, channels)
    colours = colours_for(info, channels, "model")
    has_alpha = colours < info.channels
    if has_transparent_colour(data) or (has_alpha and not _is_opaque(data, extension, info.bits)):
        raise BadImage("has transparent pixels, which codes do not hold: paint them")
    pixels = decode(data, extension, channels, bits)
    return Picture(pixels, Kind(pixels.shape[1], pixels.shape[2], colours, info.bits))


def _is_opaque(data: bytes, extension: str, bits: int) -> bool:
    alpha = decode_native(data, extension)[-1].to(torch.int32)
    return bool((alpha == 2**bits - 1).all())


def file_source(files: Sequence[ImageFile], together: bool) -> Source:
    """Image files: each becomes a file, or all of them `together` one.

    Raises UserError for a name that is none below a folder, StorageError for an unreadable file.
    """
    if wrong := [name for _, name in files if not is_safe(name)]:
        raise UserError(f"{wrong[0]}: this name cannot be kept: rename it")
    names = {file.name for file in files}
    for name in sorted(names):
        if double := names & {f"{name}.png", f"{name}.tif"}:
            raise UserError(f"{name} and {min(double)}: results of both may have one name")
    groups = [
        Group(f"{file.name}{ENDING}", number, number + 1, False)
        for number, file in enumerate(files)
    ]
    if together:
        groups = [Group(ONE_FILE, 0, len(files), True)]

    def read(number: int) -> tuple[bytes, str]:
        path = files[number].path
        return file_content(path), path.suffix[1:].lower()

    identity = [[str(path.absolute()), name, *file_identity(path)] for path, name in files]
    parts = [(number, number + 1) for number in range(len(files))]
    return Source(groups, lambda number: files[number].name, read, identity, parts)


def shard_source(images: Images, together: bool) -> Source:
    """Images of shards: each shard becomes a file, or all of them `together` one.

    Raises UserError for shards of the same name.
    """
    manifest = images.manifest
    names = [*map(file_name, manifest.shards)]
    if len({*names}) < len(names):
        raise UserError("shards of the same name: compress them into folders of their own")
    first = manifest.first.tolist()
    stops = [start + count for start, count in zip(first, manifest.counts().tolist(), strict=True)]
    parts = list(zip(first, stops, strict=True))
    groups = [
        Group(f"{name}{ENDING}", start, stop, True)
        for name, (start, stop) in zip(names, parts, strict=True)
    ]
    is_one = together and len(parts) > 1
    if is_one:
        groups = [Group(ONE_FILE, 0, len(manifest), True)]

    def name(number: int) -> str:
        key = manifest.key(number)
        return f"{names[int(manifest.shard_of(number))]}/{key}" if is_one else key

    def read(number: int) -> tuple[bytes, str]:
        return bytes(images.reader.read(number)), EXTENSIONS[manifest.kind.item(number)]

    return Source(groups, name, read, [manifest.fingerprint, names], parts)
