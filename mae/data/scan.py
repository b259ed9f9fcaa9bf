"""Scan of a shard: the index of its samples, and what is passed over.

A member belongs to a sample by WebDataset's rule: its key is its name up to the first dot of the
base name (`KEY.jpg`, `KEY.cls`, `KEY.mask.png`).  An image of several extensions (`KEY.05.01.jpg`)
belongs to the sample KEY where that has an image of one extension, and is not read; where it has
none, the image is a sample of its own, whose key goes up to the last dot (`KEY.05.01`).
"""

import hashlib
import os
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae.base.errors import UserError
from mae.data.labels import LONGEST_LABEL, NO_LABEL, Label, fault_reason, read_label
from mae.data.passed_over import PassedOverCounter, Reason, kinds_of_files
from mae.data.shard_index import ShardIndex
from mae.data.tar_members import Member, members
from mae.decoding.pixels import EXTENSION_OF, EXTENSIONS, READ_FORMATS
from mae.decoding.signatures import SNIFFED, image_format, other_format

CHUNK = 1 << 20
LARGEST_IMAGE = 1 << 31
SECOND_IMAGE = Reason(
    "images of a key that has one already",
    "keep one, or make their names differ before the first dot",
)
MASKS = tuple(f"{kind}.{of}" for kind in ("mask", "seg") for of in ("png", "jpg", "jpeg", "webp"))
"""compound extensions of segmentation masks, which are never images of their own"""
COMPANIONS = ("std.npy", "top.npy", "flip.npy", "flip.std.npy", "flip.top.npy")
"""compound extensions of further arrays of a key in shards of latents, which no command reads"""


def scan(path: Path, name: str | None = None) -> ShardIndex:
    """Index one shard by reading it once; `name` is used in messages (default: the path).

    An empty tar is a shard without samples.  Raises UserError as `members` does, and for a shard
    with files but no images.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            return _scan(path, name, file.fileno())
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def split_name(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule: split at the first dot of the base name.

    The extension is lower case.  Hidden files (`.jpg`) have no extension.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem else (name, "")


class _Image(NamedTuple):
    member: Member
    crc: int
    kind: int


class _Scan:
    """Members of a shard, sorted into images, labels and others."""

    def __init__(self) -> None:
        self.images: dict[str, _Image] = {}
        self.labels: dict[str, tuple[str, Label]] = {}
        self.compound: list[tuple[str, str, _Image]] = []
        """(key by the first dot, by the last dot, image)"""
        self.unread: list[tuple[str, bool, Reason, str]] = []
        """(key by the first dot, True if it may belong to another image, reason, name)"""
        self.others: Counter[str] = Counter()
        self.passed_over = PassedOverCounter()

    def add(self, member: Member, key: str, extension: str, content: bytes) -> None:
        """Sort in a member; `content` is whole for images and labels, else its first bytes."""
        last = extension.rpartition(".")[2]
        is_compound = last != extension
        reason = None
        if member.kind or last != "cls":
            reason = _unread_reason(member, extension, content)
        if reason:
            self.unread.append((key, is_compound and not member.kind, reason, member.name))
        elif is_image(extension):
            image = _Image(member, zlib.crc32(content), EXTENSIONS.index(last))
            if is_compound:
                self.compound.append((key, member.name[: -len(last) - 1], image))
            else:
                self._add_image(key, image)
        elif last == "cls":
            key = member.name[: -len(last) - 1]
            label = read_label(content)
            if self.labels.setdefault(key, (member.name, label))[1] != label:
                label = Label(fault="that contradict another of their key")
                self.labels[key] = member.name, label
        else:
            self.others[extension] += 1

    def finish(self) -> None:
        """Decide on the members of several extensions, which may belong to another image."""
        single = set(self.images)
        for key, own_key, image in self.compound:
            if key in single:
                self.others[split_name(image.member.name)[1]] += 1
            else:
                self._add_image(own_key, image)
        for key, is_compound, reason, name in self.unread:
            if is_compound and key in single:
                self.others[split_name(name)[1]] += 1
            else:
                self.passed_over.add(reason, name)
        if self.compound:  # in tar order, as all samples are
            self.images = dict(sorted(self.images.items(), key=lambda one: one[1].member.offset))

    def _add_image(self, key: str, image: _Image) -> None:
        if key in self.images:
            used = self.images[key].member.name
            self.passed_over.add(SECOND_IMAGE, f"{image.member.name} ({used} is used)")
        else:
            self.images[key] = image

    def numbers(self) -> tuple[list[int], tuple[str, ...]]:
        """Labels of the images, in their order, and the texts among them."""
        numbers: list[int] = []
        names: dict[str, int] = {}
        used = set[str]()
        for key in self.images:
            key = key if key in self.labels else split_name(key)[0]
            if key not in self.labels:
                numbers.append(NO_LABEL)
                continue
            used.add(key)
            name, label = self.labels[key]
            if label.fault:
                self.passed_over.add(fault_reason(label.fault), name)
            place = names.setdefault(label.name, len(names)) if label.name else None
            numbers.append(label.number if place is None else -2 - place)
        if len(used) < len(self.labels):
            self.others["cls"] += len(self.labels) - len(used)
        return numbers, tuple(names)


@lru_cache(4096)  # there are few extensions and many members
def is_image(extension: str) -> bool:
    """True for the extension of an image that is read, or its compound form (`05.01.jpg`)."""
    last = extension.rpartition(".")[2]
    return last in EXTENSIONS and not extension.endswith(MASKS)


def _unread_reason(member: Member, extension: str, content: bytes) -> Reason | None:
    """Reason why a member that is, or may be, an image or a label is not read; else None."""
    last = extension.rpartition(".")[2]
    if member.kind:
        return member.kind
    if is_image(extension):
        too_large = member.size >= LARGEST_IMAGE
        return Reason("images of 2 GB or more", "reduce them") if too_large else None
    convert = f"convert them to one of {READ_FORMATS}"
    if format := other_format(extension):
        return Reason(f".{last} images ({format})", convert)
    if extension.endswith(MASKS) or not (format := image_format(content)):
        return None
    if not extension and member.name.rpartition("/")[2].startswith("."):
        return Reason(f"hidden files that hold images ({format})", "remove the dot they begin with")
    named = f"named .{last}" if extension else "without an extension"
    rename = f"rename them to end in .{EXTENSION_OF.get(format)}"
    return Reason(f"images ({format}) {named}", rename if format in EXTENSION_OF else convert)


def _scan(path: Path, name: str, file: int) -> ShardIndex:
    found = _Scan()
    digest, position = hashlib.sha256(), 0
    for member in members(path, name):
        key, extension = split_name(member.name)
        wanted = 0 if member.kind else min(member.size, max(LONGEST_LABEL + 1, SNIFFED))
        if is_image(extension) and not member.kind and member.size < LARGEST_IMAGE:
            wanted = member.size
        content = os.pread(file, wanted, member.offset)
        _hash_range(digest, file, position, member.offset)
        digest.update(content)
        position = member.offset + len(content)
        found.add(member, key, extension, content)
    total = os.fstat(file).st_size
    _hash_range(digest, file, position, total)
    found.finish()
    labels, label_names = found.numbers()
    passed_over = found.passed_over.result()
    if not found.images and (passed_over or found.others):
        held = [*map(str, passed_over), *filter(None, [kinds_of_files(found.others)])]
        raise UserError(f"{name}: no images: expected {READ_FORMATS}, found {'; '.join(held)}")
    images = list(found.images.values())
    return ShardIndex(
        keys="\0".join(found.images).encode("utf-8", "surrogateescape"),
        offset=np.array([image.member.offset for image in images], np.int64),
        size=np.array([image.member.size for image in images], np.uint32),
        crc=np.array([image.crc for image in images], np.uint32),
        label=np.array(labels, np.int32),
        kind=np.array([image.kind for image in images], np.uint8),
        bytes=total,
        sha256=digest.hexdigest(),
        label_names=label_names,
        passed_over=passed_over,
        others=tuple(sorted(found.others.items())),
    )


def _hash_range(digest: "hashlib._Hash", file: int, start: int, end: int) -> None:
    while start < end and (part := os.pread(file, min(CHUNK, end - start), start)):
        digest.update(part)
        start += len(part)
