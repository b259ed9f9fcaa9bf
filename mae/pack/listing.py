"""Listing of the images to pack: types shared by all kinds of sources, and folders of images."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mae.base.errors import StorageError
from mae.base.printable import printable
from mae.decoding.pixels import EXTENSION_OF, EXTENSIONS, READ_FORMATS, BadImage
from mae.decoding.signatures import SNIFFED, image_format, other_format
from mae.pack.image_sources import Sources
from mae.storage.cache import ShardCache

DATASET_PREFIX = "torchvision:"
"""marks the name of a torchvision data set among the sources"""
UNKNOWN_SIZE = -1


class PackRequest(NamedTuple):
    """Sources to pack, and options for reading them."""

    sources: tuple[str, ...]
    """one folder, table or `torchvision:NAME`, or any number of tars (paths, patterns, URLs)"""
    labels: bool | None = None
    """True: every image must have a label; False: labels are ignored; None: used where present"""
    path_column: str = "path"
    """column of a table with the images' paths"""
    label_column: str | None = None
    """column of a table with the labels; None: `label`, if there is such a column"""
    classes: Path | None = None
    """file or packed folder with the class names by number; None: numbered in sorted order"""
    include: tuple[str, ...] = ()
    """patterns of the files of a folder or table to pack; empty: all"""
    exclude: tuple[str, ...] = ()
    """patterns of files that are excluded"""
    masks: str | None = None
    """pattern of the masks in a folder; "none": there are none; None: likely ones are refused"""
    root: Path = Path("data")
    """torchvision's data folder"""
    cache: ShardCache | None = None
    """cache for remote tars"""


class Reader(Protocol):
    """Access to the bytes of a listing's sources; sent to every worker process."""

    def read(self, reference: Any) -> bytes:
        """Bytes of the image file.

        Raises BadImage where this image is unusable, StorageError where reading fails.
        """
        ...

    def name(self, reference: Any) -> str:
        """Name of the image in messages and `sources.tsv`."""
        ...


class Listing(NamedTuple):
    """All images to pack, in an order that depends on their names only."""

    name: str
    """name of the source in messages"""
    sources: Sources
    reader: Reader
    sizes: npt.NDArray[np.int64]
    """bytes of each source, UNKNOWN_SIZE where it must be read first"""
    fingerprint: str
    """digest of names, sizes and times: equal for unchanged sources"""
    splits: tuple[tuple[str, int], ...]
    """(name, number of sources), in order; `train` alone where the source has no splits"""
    classes: tuple[str, ...] = ()
    """class names by class number; empty where classes have no names"""
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason) of files that are not listed as images"""
    excluded: tuple[tuple[str, int], ...] = ()
    """(reason, number) of files that the options exclude"""
    notes: tuple[str, ...] = ()
    """lines for the user about the listing"""
    times: npt.NDArray[np.int64] | None = None
    """modification time of each source in nanoseconds; None: the sources are no files"""

    def name_of(self, image: int) -> str:
        """Name of an image in messages and `sources.tsv`, by its number."""
        return self.reader.name(self.sources.references[image])


class FileReader(NamedTuple):
    """Reader of files by their path below `folder`."""

    folder: str

    def read(self, reference: str) -> bytes:
        """Bytes of the file.

        Raises BadImage without permission to read it, StorageError for other failures.
        """
        path = Path(self.folder, reference)
        try:
            return path.read_bytes()
        except PermissionError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None
        except OSError as error:
            raise StorageError(
                f"{printable(str(path))}: cannot be read: {error.strerror}"
            ) from None

    def name(self, reference: str) -> str:
        """Path of the file, as listed."""
        return reference


class ImageFiles(NamedTuple):
    """Files with an image's extension, and their status in the file system."""

    paths: list[str]
    sizes: npt.NDArray[np.int64]
    """bytes"""
    times: npt.NDArray[np.int64]
    """modification times in nanoseconds"""
    fingerprint: str
    """digest of paths, sizes and modification times"""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of the other paths"""


def stat_files(reader: FileReader, paths: Sequence[str]) -> ImageFiles:
    """Stat `paths`; those without an image's extension or without a file are skipped."""
    kept: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        place = os.path.join(reader.folder, path)  # noqa: PTH118  # a Path takes five times as long
        try:
            status = os.stat(place)  # noqa: PTH116
            if reason := why_skipped(place, status.st_mode):
                skipped.append((path, reason))
                continue
        except OSError as error:  # a broken link, for one
            skipped.append((path, f"cannot be read: {error.strerror}"))
            continue
        kept.append(path)
        sizes.append(status.st_size)
        times.append(status.st_mtime_ns)
    columns = (np.array(sizes, np.int64), np.array(times, np.int64))
    digest = fingerprint([reader.folder, *kept], *columns)
    return ImageFiles(kept, *columns, digest, tuple(skipped))


def why_skipped(path: str, mode: int) -> str:
    """Reason why a file of this mode is not packed; empty for one with an image's extension."""
    if not stat.S_ISREG(mode):  # reading a FIFO would wait forever
        return "a folder, FIFO, device or socket, not a file"
    extension = extension_of(path)
    if extension in EXTENSIONS:
        return ""
    suffix = f".{printable(extension)}" if extension else "no extension"
    if format := other_format(Path(path).name.lower()):
        return f"{suffix} ({format}) is not read: convert it to one of {READ_FORMATS}"
    with Path(path).open("rb") as file:
        format = image_format(file.read(SNIFFED))
    if format in EXTENSION_OF:
        rename = f"rename it to end in .{EXTENSION_OF[format]}"
        return f"{suffix}, but holds an image ({format}): {rename}"
    if format:
        return f"{suffix}, holds an image ({format}) that is not read: convert it"
    return f"{suffix}: no image"


def extension_of(path: str) -> str:
    """Extension of `path` in lower case, without its dot."""
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def fingerprint(texts: Sequence[str], *columns: npt.NDArray) -> str:
    """Digest of texts and numbers (sha256, hexadecimal)."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape"))
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()
