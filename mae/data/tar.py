"""A strict walk over the headers of a tar file.

tarfile and webdataset end quietly at damage in the middle of an archive and so lose samples
without a word; here every block is a valid header, a member's content, or the end.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mae.errors import UserError

BLOCK = 512
LONGEST_EXTENDED_HEADER = 1 << 20


class Member(NamedTuple):
    """A regular file inside a tar."""

    name: str
    offset: int
    """of the content, bytes from the start of the tar"""
    size: int


def walk(path: Path) -> Iterator[Member]:
    """The regular files of the uncompressed tar at `path`, in order.

    Understands ustar, GNU long names and PAX records; skips folders; reads headers only.
    Raises UserError, naming the file, where it is no tar, is cut short or damaged, or holds
    links or sparse files.
    """
    try:
        with path.open("rb") as file:
            yield from _walk(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except _Damage as damage:
        raise UserError(f"{path}: {damage}") from None


class _Damage(Exception):
    pass


def _walk(file: BinaryIO, total: int) -> Iterator[Member]:
    if total == 0:
        raise _Damage("is empty (0 bytes)")
    position, overrides = 0, {}
    while True:
        file.seek(position)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise _Damage(f"is cut short at byte {position + len(block)}: no end-of-archive block")
        if not any(block):
            return
        header = _parse(block, position)
        content, size = position + BLOCK, header.size
        if header.type == tarfile.GNUTYPE_LONGNAME:
            overrides["path"] = (
                _read_record(file, content, size).rstrip(b"\0").decode("utf-8", "replace")
            )
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            overrides |= _pax_records(_read_record(file, content, size), position)
        elif header.type == tarfile.XGLTYPE:
            pass  # comments and defaults for all members; git writes one, nobody names files in it
        elif header.type == tarfile.DIRTYPE:
            overrides, size = {}, 0
        elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            size = int(overrides.get("size", size))
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
            compressed = block[:2] == b"\x1f\x8b" or block[:4] == b"\x28\xb5\x2f\xfd"
            raise _Damage("is compressed: unpack it first" if compressed else "is no tar") from None
        raise _Damage(f"is damaged at byte {position}: {error}") from None


def _read_record(file: BinaryIO, content: int, size: int) -> bytes:
    if size > LONGEST_EXTENDED_HEADER:
        raise _Damage(f"is damaged at byte {content}: a name of {size} bytes")
    file.seek(content)
    return file.read(size)


def _pax_records(data: bytes, position: int) -> dict[str, str]:
    """`LENGTH KEY=VALUE newline` records (POSIX.1-2001, pax interchange format)."""
    records = {}
    while data:
        try:
            length = int(data.split(b" ", 1)[0])
            key, value = data[:length].split(b" ", 1)[1].rstrip(b"\n").split(b"=", 1)
        except (ValueError, IndexError):
            raise _Damage(f"is damaged at byte {position}: unreadable PAX record") from None
        if key.startswith(b"GNU.sparse"):
            raise _Damage("holds a sparse file; only regular files and folders are read")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        data = data[length:] if length > 0 else b""
    return records
