"""Scan of a shard: a strict walk over its tar headers, and the index of its samples.

tarfile and webdataset stop without an error at damage in the middle of an archive and so lose
samples; here every block must be a valid header, a member's content, or the end.
"""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.decoding.pixels import EXTENSIONS

NO_LABEL = -1
"""label of a sample without a class number"""

# All sizes in bytes.
BLOCK = 512
CHUNK = 1 << 20
LARGEST_IMAGE = 1 << 31
LONGEST_EXTENDED_HEADER = 1 << 20
LONGEST_LABEL = 20
LONGEST_PADDING = (1 << 20) + 2 * BLOCK  # tar pads to a record, of 10 KiB by default
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")  # gzip, zstd, bzip2, xz


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int
    """position of the content, bytes from the start of the tar"""
    size: int
    """bytes"""


class ShardIndex(NamedTuple):
    """The samples of one shard, in tar order."""

    keys: bytes
    """joined by NUL: a Python string per sample would cost every worker memory"""
    offset: npt.NDArray[np.int64]
    """position of the image in the shard, in bytes"""
    size: npt.NDArray[np.uint32]
    """size of the image in bytes"""
    crc: npt.NDArray[np.uint32]
    """crc32 of the image's bytes"""
    label: npt.NDArray[np.int32]
    """class number from the sample's `.cls`; NO_LABEL without one or where it is not a number"""
    kind: npt.NDArray[np.uint8]
    """index into EXTENSIONS"""
    bytes: int
    """size of the shard"""
    sha256: str
    """checksum of the shard, hexadecimal"""


def scan(path: Path, name: str | None = None) -> ShardIndex:
    """Index one shard by reading it once; `name` is used in messages (default: the path).

    An empty tar is a shard without samples.  Raises UserError as `walk` does, for a shard with
    files but no images, and for a key with two images or labels.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            return _scan(path, name, file.fileno())
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def walk(path: Path, name: str | None = None) -> Iterator[Member]:
    """The regular files of the uncompressed tar at `path`, in order.

    Understands ustar, GNU long names and PAX records; skips folders; reads headers only.  `name`
    is used in messages (default: the path).  Raises UserError where the file is not a tar, is cut
    short or damaged, or holds links or sparse files.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            yield from _walk(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except _Damage as damage:
        raise UserError(f"{name}: {damage}") from None


def split_name(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule: split at the first dot of the base name.

    The extension is lower case.  Hidden files (`.jpg`) have no extension.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem else (name, "")


class _Damage(Exception):
    pass


def _walk(file: BinaryIO, total: int) -> Iterator[Member]:
    if total == 0:
        raise _Damage("is empty (0 bytes)")
    position = 0
    overrides: dict[str, Any] = {}
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if len(block) < BLOCK and position:
            raise _Damage(f"is cut short at byte {total}: no end-of-archive block")
        if len(block) == BLOCK and not any(block):
            return _check_end(file, position, total)
        header = _parse(block, position)
        content, size = position + BLOCK, header.size
        if size < 0:
            raise _Damage(f"is damaged at byte {position}: a negative size")
        if header.type == tarfile.GNUTYPE_LONGNAME:
            name = _read_record(file, content, size).partition(b"\0")[0]
            overrides["path"] = name.decode("utf-8", "surrogateescape")
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            overrides |= _pax_records(_read_record(file, content, size), position)
        elif header.type == tarfile.XGLTYPE:
            pass  # comments and defaults for all members, as git writes; it names no files
        elif header.type == tarfile.DIRTYPE:
            overrides, size = {}, 0
        elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            size = overrides.get("size", size)
            name = overrides.get("path", header.name)
            if content + size > total:
                raise _Damage(f"is cut short: {name} ends at byte {content + size} of {total}")
            yield Member(name, content, size)
            overrides = {}
        else:
            kind = "link" if header.islnk() or header.issym() else f"member of type {header.type!r}"
            raise _Damage(f"holds a {kind}: {header.name}; only regular files and folders are read")
        position = content + -(-size // BLOCK) * BLOCK


def _parse(block: bytes, position: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if position == 0:
            compressed = block.startswith(COMPRESSED)
            defect = "is compressed: unpack it first" if compressed else "is not a tar"
            raise _Damage(defect) from None
        raise _Damage(f"is damaged at byte {position}: {error}") from None


def _check_end(file: BinaryIO, position: int, total: int) -> None:
    """Raise _Damage unless only padding follows the first zero block: a hole may hide members."""
    if total - position > LONGEST_PADDING:
        raise _Damage(f"is damaged at byte {position}: a hole of zeros, not the end")
    rest = file.read()
    if any(rest):
        raise _Damage(f"is damaged at byte {position}: a hole of zeros, with more behind it")


def _read_record(file: BinaryIO, content: int, size: int) -> bytes:
    if size > LONGEST_EXTENDED_HEADER:
        raise _Damage(f"is damaged at byte {content}: a name of {size} bytes")
    file.seek(content)
    return file.read(size)


def _pax_records(data: bytes, position: int) -> dict[str, Any]:
    """`LENGTH KEY=VALUE newline` records (POSIX.1-2001, pax interchange format)."""
    records: dict[str, Any] = {}
    while data.strip(b"\0"):
        digits = data.partition(b" ")[0]
        length = _number(digits)
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not 0 < length <= len(data) or not equals or not value.endswith(b"\n"):
            raise _Damage(f"is damaged at byte {position}: unreadable PAX record")
        if key.startswith(b"GNU.sparse"):
            raise _Damage("holds a sparse file; only regular files and folders are read")
        if key == b"path":
            name = value[:-1].partition(b"\0")[0]
            records["path"] = name.decode("utf-8", "surrogateescape")
        elif key == b"size":
            records["size"] = _number(value[:-1])
            if records["size"] < 0:
                raise _Damage(f"is damaged at byte {position}: a size of {value[:-1]!r}")
        data = data[length:]
    return records


def _number(digits: bytes) -> int:
    """The number, or -1 for text that is no number or a number beyond any file size."""
    return int(digits) if digits.isdigit() and len(digits) < 19 else -1


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
                    "keep one, or make their names differ before the first dot"
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


def _read_label(text: bytes) -> int:
    """The class number, or NO_LABEL for other text: commands that need labels check them."""
    try:
        label = int(text)
    except ValueError:
        return NO_LABEL
    return label if 0 <= label < 2**31 else NO_LABEL
