"""Members of a tar: a strict walk over its headers.

tarfile and webdataset stop without an error at damage in the middle of an archive and so lose
samples; here every block must be a valid header, a member's content, or the end.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mae.base.errors import StorageError, UserError
from mae.data.passed_over import Reason

# All sizes in bytes.
BLOCK = 512
LONGEST_EXTENDED_HEADER = 1 << 20
LONGEST_PADDING = (1 << 20) + 2 * BLOCK  # tar pads to a record, of 10 KiB by default
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")  # gzip, zstd, bzip2, xz

KINDS = {
    tarfile.LNKTYPE: Reason("hard links", "tar with --hard-dereference stores the files"),
    tarfile.SYMTYPE: Reason("symbolic links", "tar with --dereference stores the files"),
    tarfile.CHRTYPE: Reason("devices", "pack regular files only"),
    tarfile.BLKTYPE: Reason("devices", "pack regular files only"),
    tarfile.FIFOTYPE: Reason("FIFOs", "pack regular files only"),
    tarfile.GNUTYPE_SPARSE: Reason("sparse files", "tar without --sparse stores them whole"),
    b"M": Reason("files that begin in another volume of the tar", "join the volumes"),
}
"""member type → name of its kind in messages, and the remedy"""
WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
WITHOUT_CONTENT += (tarfile.FIFOTYPE, tarfile.DIRTYPE)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
NO_FILES = (tarfile.DIRTYPE, b"D", b"V")
"""folders, GNU's lists of folders, volume labels"""
ABOUT_THE_NEXT = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
"""types that name no file: a link's long target; comments and defaults for all, as git writes"""


class Member(NamedTuple):
    """A file in a tar, or something else with a file's name."""

    name: str
    offset: int
    """position of the content, bytes from the start of the tar"""
    size: int
    """bytes"""
    kind: Reason | None = None
    """None for a regular file"""


def walk(path: Path, name: str | None = None) -> Iterator[Member]:
    """The regular files of the uncompressed tar at `path`, in order.  Raises as `members`."""
    return (member for member in members(path, name) if not member.kind)


def walk_open(file: BinaryIO, name: str) -> Iterator[Member]:
    """The regular files of an open tar, as `walk`; its position stays as it is."""
    return walk(Path(f"/proc/self/fd/{file.fileno()}"), name)


def read_member(file: BinaryIO, name: str, member: Member) -> bytes:
    """Content of a member of an open tar; StorageError, with its `name`, where reading fails."""
    try:
        file.seek(member.offset)
        content = file.read(member.size)
    except OSError as error:
        raise StorageError(f"{name}: cannot be read: {error.strerror}") from None
    if len(content) < member.size:
        raise StorageError(f"{name}: cannot be read: was cut short while it was read")
    return content


def members(path: Path, name: str | None = None) -> Iterator[Member]:
    """The members of the uncompressed tar at `path`, in order, without folders.

    Understands ustar, GNU long names and PAX records; reads headers only.  `name` is used in
    messages (default: the path).  Raises UserError where the file is not a tar, is cut short or
    damaged.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            yield from _walk(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except _Damage as damage:
        raise UserError(f"{name}: {damage}") from None


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
        elif header.type not in ABOUT_THE_NEXT:
            name = overrides.get("sparse name", overrides.get("path", header.name))
            size = 0 if header.type in WITHOUT_CONTENT else overrides.get("size", size)
            if header.type == tarfile.GNUTYPE_SPARSE:
                content += _length_of_sparse_map(file, block, content)
            if content + size > total:
                raise _Damage(f"is cut short: {name} ends at byte {content + size} of {total}")
            if header.type in REGULAR:
                yield Member(name, content, size, overrides.get("kind"))
            elif header.type not in NO_FILES:
                kind = KINDS.get(header.type, _unknown_kind(header.type))
                yield Member(name, content, size, kind)
            overrides = {}
        position = content + -(-size // BLOCK) * BLOCK


def _unknown_kind(type: bytes) -> Reason:
    return Reason(f"members of type {type!r}", "pack regular files only")


def _length_of_sparse_map(file: BinaryIO, header: bytes, content: int) -> int:
    """Bytes of the blocks that continue the map of GNU's old sparse format."""
    length, more = 0, header[482]
    while more:
        file.seek(content + length)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise _Damage(f"is cut short at byte {content + length}: in a sparse file")
        length, more = length + BLOCK, block[504]
    return length


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
            records["kind"] = KINDS[tarfile.GNUTYPE_SPARSE]
        if key in (b"path", b"GNU.sparse.name"):
            name = value[:-1].partition(b"\0")[0].decode("utf-8", "surrogateescape")
            records["path" if key == b"path" else "sparse name"] = name
        elif key == b"size":
            records["size"] = _number(value[:-1])
            if records["size"] < 0:
                raise _Damage(f"is damaged at byte {position}: a size of {value[:-1]!r}")
        data = data[length:]
    return records


def _number(digits: bytes) -> int:
    """The number, or -1 for text that is no number or a number beyond any file size."""
    return int(digits) if digits.isdigit() and len(digits) < 19 else -1
