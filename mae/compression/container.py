"""File of compressed images, *.maec: header, directory, payloads, checksums.

    "MAEC", version                      5 bytes
    checksum of the model                8 bytes, the first of the sha256 of its weights
    checksum of the tables               8 bytes; zeros: probabilities by the model itself
    build                                text: what computed these probabilities; empty for tables
    channels, bits                       of the model
    tile                                 rows and columns; 0 0: images are coded whole
    kinds of images                      runs of (count, height, width, colours, bits)
    names                                deflated, zeros between them; empty: by the file's name
    blocks                               (images, length of the payload, crc32 of the codes) each
    payloads
    checksum of all before               8 bytes

Integers are of variable length (7 bits a byte, the lowest first), texts have their length before.
"""

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from mae.base.errors import UserError
from mae.decoding.pixels import BadImage, check_size

MAGIC, VERSION = b"MAEC", 1
ENDING = ".maec"
DIGEST = 8
NO_TABLES = bytes(DIGEST)
MOST_NAME = 4096
"""maximum length of a name in bytes"""
MOST_CHANNELS = 1 << 16
CHUNK = 1 << 20
"""bytes that are read or copied at a time"""


class Kind(NamedTuple):
    """Size and pixels of an image, which its file had."""

    height: int
    width: int
    colours: int
    """channels"""
    bits: int
    """8 or 16"""

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.height * self.width


class Header(NamedTuple):
    """Model and tables that a file was made with."""

    model: bytes
    tables: bytes
    """checksum; NO_TABLES: by the model's own probabilities"""
    build: str
    channels: int
    bits: int
    tile: tuple[int, int]
    """(0, 0): images are coded whole"""


class Entry(NamedTuple):
    """Block in the directory of a file."""

    images: int
    length: int
    """of the payload, in bytes"""
    crc: int


class Block(NamedTuple):
    """Images that are coded together."""

    images: int
    payload: bytes
    crc: int
    """of the codes, to see whether they were decoded rightly"""

    @property
    def entry(self) -> Entry:
        """Line of the directory."""
        return Entry(self.images, len(self.payload), self.crc)


class Container(NamedTuple):
    """Header and directory of a file."""

    header: Header
    kinds: Sequence[Kind]
    names: Sequence[str]
    """empty: the one image has the name of the file"""
    entries: Sequence[Entry]

    @property
    def payload(self) -> int:
        """Bytes of all payloads."""
        return sum(entry.length for entry in self.entries)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(head_of(self)) + self.payload + DIGEST


class Place(NamedTuple):
    """Block of a file: where its payload lies, and the numbers of its images."""

    entry: Entry
    start: int
    """first byte of the payload in the file"""
    numbers: range


class Stored(NamedTuple):
    """File whose checksum was right; payloads are read one by one."""

    path: Path
    content: Container
    start: int
    """first byte of the payloads"""
    sha256: str
    """of all but the checksum at the end"""
    identity: tuple[int, int]
    """size and time of change"""

    def places(self) -> Iterator[Place]:
        """Yield the blocks in their order."""
        first, start = 0, self.start
        for entry in self.content.entries:
            yield Place(entry, start, range(first, first + entry.images))
            first, start = first + entry.images, start + entry.length

    def block(self, place: Place) -> Block:
        """Read a block.  Raises UserError where the file has changed, or cannot be read."""
        with _opened(self.path) as file:
            file.seek(place.start)
            payload = file.read(place.entry.length)
            if _identity(file) != self.identity or len(payload) != place.entry.length:
                raise UserError(f"{self.path}: has changed meanwhile: run the same command again")
        return Block(place.entry.images, payload, place.entry.crc)


def head_of(content: Container) -> bytes:
    """Bytes of a file before its payloads."""
    header = content.header
    runs = [(len(list(group)), kind) for kind, group in groupby(content.kinds)]
    names = "\0".join(content.names).encode("utf-8", "surrogateescape")
    parts = [
        MAGIC,
        bytes([VERSION]),
        header.model,
        header.tables,
        _text(header.build.encode()),
        *map(_integer, (header.channels, header.bits, *header.tile, len(runs))),
        *(_integer(one) for count, kind in runs for one in (count, *kind)),
        _integer(len(names)),
        _text(zlib.compress(names, 9) if names else b""),
        _integer(len(content.entries)),
        *(
            _integer(one.images) + _integer(one.length) + one.crc.to_bytes(4, "little")
            for one in content.entries
        ),
    ]
    return b"".join(parts)


def write_container(file: BinaryIO, content: Container, payloads: Iterable[bytes]) -> None:
    """Write a file; `payloads`: all of them, cut anywhere."""
    digest = hashlib.sha256()
    for part in chain([head_of(content)], payloads):
        digest.update(part)
        file.write(part)
    file.write(digest.digest()[:DIGEST])


def read_container(path: Path) -> Stored:
    """Check a file, and read what is before its payloads.

    Raises UserError where it is none, of another version, or damaged.
    """
    with _opened(path) as file:
        identity = _identity(file)
        version = file.read(len(MAGIC) + 1)
        if version[: len(MAGIC)] != MAGIC or len(version) <= len(MAGIC):
            raise UserError(f"{path}: holds no compressed images (mae compress writes them)")
        if version[-1] != VERSION:
            raise UserError(
                f"{path}: is of version {version[-1]}; this version of mae reads {VERSION}"
            )
        file.seek(0)
        digest, left = hashlib.sha256(), identity[0] - DIGEST
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        if left or digest.digest()[:DIGEST] != file.read():
            raise UserError(f"{path}: is damaged, or cut off")
        file.seek(len(version))
        reader = _Reader(file, len(version), identity[0] - DIGEST)
        try:
            content = reader.container()
        except (ValueError, OverflowError, BadImage, zlib.error) as error:
            reason = f": {error}" if isinstance(error, BadImage) else ""
            raise UserError(f"{path}: is damaged, or made by something else{reason}") from None
        if _identity(file) != identity:
            raise UserError(f"{path}: has changed meanwhile: run the same command again")
        return Stored(path, content, reader.place, digest.hexdigest(), identity)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


class _Reader:
    """Reads a file from front to back; ValueError where it is not as described."""

    def __init__(self, file: BinaryIO, place: int, stop: int) -> None:
        self.file, self.place, self.stop = file, place, stop

    def container(self) -> Container:
        model, tables, build = self.taken(DIGEST), self.taken(DIGEST), self.text().decode()
        channels, bits, rows, columns = (self.integer() for _ in range(4))
        if not 1 <= channels <= MOST_CHANNELS or bits not in (8, 16):
            raise ValueError
        if rows or columns:
            check_size(rows, columns, channels)
        header = Header(model, tables, build, channels, bits, (rows, columns))
        runs = []
        for _ in range(self.integer()):
            count = self.integer()
            kind = Kind(*(self.integer() for _ in range(4)))
            check_size(kind.height, kind.width, kind.colours)
            if kind.bits not in (8, 16) or kind.bits > bits or kind.colours not in (1, channels):
                raise ValueError
            runs.append((count, kind))
        length = self.integer()
        names = self.names(length)
        entries = [
            Entry(self.integer(), self.integer(), int.from_bytes(self.taken(4), "little"))
            for _ in range(self.integer())
        ]
        images = sum(count for count, _ in runs)
        # Before anything is made of that length: a few bytes may claim any number of images.
        if sum(one.images for one in entries) != images or len(names) != (length and images):
            raise ValueError
        if not length and images != 1:
            raise ValueError
        if self.place + sum(one.length for one in entries) != self.stop:
            raise ValueError
        kinds = [kind for count, kind in runs for _ in range(count)]
        return Container(header, kinds, names, entries)

    def names(self, length: int) -> list[str]:
        packed = self.text()
        if not length:
            return []
        raw = zlib.decompressobj().decompress(packed, length)
        names = raw.decode("utf-8", "surrogateescape").split("\0")
        if len(raw) != length or not all(map(is_safe, names)) or len({*names}) < len(names):
            raise ValueError
        return names

    def integer(self) -> int:
        value, shift = 0, 0
        while True:
            (byte,) = self.taken(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 56:
                raise ValueError

    def text(self) -> bytes:
        return self.taken(self.integer())

    def taken(self, count: int) -> bytes:
        if count > self.stop - self.place:
            raise ValueError
        self.place += count
        return self.file.read(count)


def is_safe(name: str) -> bool:
    """True for a path that stays below the folder that it is written into."""
    parts = PurePosixPath(name).parts
    fits = 0 < len(name.encode("utf-8", "surrogateescape")) <= MOST_NAME
    return fits and not name.startswith("/") and "\0" not in name and not {"..", "."} & {*parts}


def _integer(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _text(content: bytes) -> bytes:
    return _integer(len(content)) + content
