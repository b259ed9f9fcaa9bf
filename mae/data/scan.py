"""One shard read from beginning to end: its samples, their checksums and labels."""

import hashlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.data.tar import Member, walk
from mae.decoding.formats import EXTENSIONS

NO_LABEL = -1
LONGEST_LABEL = 20
LARGEST_IMAGE = 1 << 31
CHUNK = 1 << 20


class ShardIndex(NamedTuple):
    """The samples of one shard, in tar order."""

    keys: bytes
    """joined by NUL: a Python string for each of a million samples would cost every worker"""
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.uint32]
    crc: npt.NDArray[np.uint32]
    """crc32 of the image's bytes"""
    label: npt.NDArray[np.int32]
    """class number from the sample's `.cls`, or NO_LABEL (of a text, too)"""
    kind: npt.NDArray[np.uint8]
    """index into EXTENSIONS"""
    bytes: int
    """of the whole shard"""
    sha256: str
    """of the whole shard"""


def scan(path: Path, name: str | None = None) -> ShardIndex:
    """Read one shard from beginning to end.  `name` is what messages call it (the path).

    An empty tar is a shard of no samples.  Raises UserError for a damaged tar, a shard of other
    files only, a key with two images or labels.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            return _scan(path, name, file.fileno())
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def _scan(path: Path, name: str, file: int) -> ShardIndex:
    images: dict[str, tuple[Member, int, int]] = {}
    labels: dict[str, int] = {}
    seen: set[str] = set()
    digest, position = hashlib.sha256(), 0
    for member in walk(path, name):
        key, extension = split_name(member.name)
        seen.add(extension)
        is_image = extension in EXTENSIONS
        if is_image and member.size >= LARGEST_IMAGE:
            raise UserError(f"{name}: key {key}: an image of {member.size:,} bytes")
        wanted = member.size if is_image else min(member.size, LONGEST_LABEL + 1)
        content = os.pread(file, wanted, member.offset)
        _feed(digest, file, position, member.offset)
        digest.update(content)
        position = member.offset + len(content)
        if is_image:
            if key in images:
                raise UserError(
                    f"{name}: key {key}: more than one image ({member.name}); "
                    "leave one, or let their names differ before the first dot"
                )
            images[key] = (member, zlib.crc32(content), EXTENSIONS.index(extension))
        elif extension == "cls":
            if key in labels:
                raise UserError(f"{name}: key {key}: more than one label ({member.name})")
            labels[key] = _read_label(content)
    total = os.fstat(file).st_size
    _feed(digest, file, position, total)
    if seen and not images:
        names = [f".{extension}" if extension else "no extension" for extension in sorted(seen)]
        held = f"only {', '.join(names[:5])}"
        held += f" and {len(seen) - 5} more" if len(seen) > 5 else ""
        raise UserError(f"{name}: no images: expected .{', .'.join(EXTENSIONS)}, found {held}")
    members = [member for member, _, _ in images.values()]
    return ShardIndex(
        keys="\0".join(images).encode("utf-8", "surrogateescape"),
        offset=np.array([member.offset for member in members], np.int64),
        size=np.array([member.size for member in members], np.uint32),
        crc=np.array([crc for _, crc, _ in images.values()], np.uint32),
        label=np.array([labels.get(key, NO_LABEL) for key in images], np.int32),
        kind=np.array([kind for _, _, kind in images.values()], np.uint8),
        bytes=total,
        sha256=digest.hexdigest(),
    )


def _feed(digest: "hashlib._Hash", file: int, start: int, end: int) -> None:
    while start < end and (part := os.pread(file, min(CHUNK, end - start), start)):
        digest.update(part)
        start += len(part)


def split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key runs to the first dot of the base name; the rest, lower case.

    Hidden files (`.jpg`) have a key alone.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem else (name, "")


def _read_label(text: bytes) -> int:
    """NO_LABEL for what is no class number: pretraining needs none, and what does will say so."""
    try:
        label = int(text)
    except ValueError:
        return NO_LABEL
    return label if 0 <= label < 2**31 else NO_LABEL
