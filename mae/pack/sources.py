"""What `mae pack` is to pack: folders, tables, torchvision's data sets, tars, in one listing."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mae.base.errors import StorageError, UserError
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.cache import ShardCache

PREFIX = "torchvision:"
"""of the names of torchvision's data sets"""

UNKNOWN = -1
SHOWN = 10


class Source(NamedTuple):
    """An image to be packed."""

    reference: Any
    """what the listing's reader finds its bytes by"""
    extension: str
    """one of EXTENSIONS"""
    label: int | None
    """class number"""


class Reader(Protocol):
    """How a worker process gets at the bytes of a listing's sources."""

    def read(self, reference: Any) -> bytes:
        """Bytes of the image file; BadImage where they are none, StorageError where unreadable."""
        ...

    def name(self, reference: Any) -> str:
        """For messages and `sources.tsv`."""
        ...


class Listing(NamedTuple):
    """All images to be packed, in an order that depends on nothing but their names."""

    name: str
    """what is listed, for messages"""
    sources: Sequence[Source]
    reader: Reader
    sizes: npt.NDArray[np.int64]
    """bytes of each source, UNKNOWN where only reading tells"""
    stamp: str
    """a digest: equal means the same names, sizes and times"""
    splits: tuple[tuple[str, int], ...]
    """(name, number of sources), in order; `train` alone where nothing is set aside already"""
    classes: tuple[str, ...] = ()
    """names by class number, where there are names"""
    skipped: tuple[tuple[str, str], ...] = ()
    """files that are no images by their names, and why"""
    notes: tuple[str, ...] = ()
    """what a person should know of how it was listed"""


class Wanted(NamedTuple):
    """What the user asked to be packed."""

    sources: tuple[str, ...]
    """one folder, table or `torchvision:NAME`, or any number of tars (paths, patterns, URLs)"""
    labels: bool | None = None
    """True: every image must have one; False: none is taken; None: as found"""
    path_column: str = "path"
    label_column: str | None = None
    """of a table; None: `label`, if there is such a column"""
    root: Path = Path("data")
    """where torchvision keeps its data sets"""
    cache: ShardCache | None = None
    """through which remote tars are read"""


def find_sources(wanted: Wanted) -> Listing:
    """The listing of all that is `wanted`.

    Raises UserError, one line per fault, where there is no image or a table or label is wrong.
    """
    # Here, because each of them is built on this module's classes.
    from mae.pack.tables import SUFFIXES, find_in_table
    from mae.pack.tars import find_in_tars

    first = wanted.sources[0]
    if len(wanted.sources) == 1:
        if first.startswith(PREFIX):
            from mae.pack.datasets import find_dataset  # torchvision comes with it

            return find_dataset(first.removeprefix(PREFIX), wanted.root, wanted.labels)
        path = Path(first).expanduser()
        if path.is_dir():
            return find_images(path, wanted.labels)
        if path.suffix.lower() in SUFFIXES:
            return find_in_table(path, wanted.path_column, wanted.label_column, wanted.labels)
    for source in wanted.sources:
        if source.startswith(PREFIX) or Path(source).is_dir():
            raise UserError(f"{source}: one folder, table or data set at a time; tars go together")
        if not source.partition("?")[0].endswith(".tar") and not source.startswith("pipe:"):
            if not Path(source).exists():
                raise UserError(f"{source}: no such folder")
            known = f"a folder, {', '.join(SUFFIXES)}, .tar"
            raise UserError(f"{source}: is none of what can be packed: {known}, {PREFIX}NAME")
    return find_in_tars(wanted.sources, wanted.labels, wanted.cache)


def find_images(source: Path, labels: bool | None = None) -> Listing:
    """All image files below `source`, by path; hidden files and folders are left out.

    `labels`: True makes every top-level folder a class, False none, None decides: classes where
    no image lies in `source` itself and there are at least two folders.
    Raises UserError where there is no image, or classes are asked for and some image has none.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    # "é" may be one character or two, and names may be no text: bytes decide the order.
    paths = sorted(_visible_files(str(source)), key=os.fsencode)
    files = examine_files(FileReader(str(source)), paths)
    if not files.paths:
        seen = sorted({Path(path).suffix or Path(path).name for path, _ in files.skipped})
        held = f"only {', '.join(map(shown, seen[:5]))}" if seen else "no files"
        raise UserError(f"{source}: no images: expected .{', .'.join(EXTENSIONS)}, found {held}")

    tops = [path.partition("/")[0] for path in files.paths]
    loose = [path for path in files.paths if "/" not in path]
    if labels is None:
        labels = not loose and len(set(tops)) > 1
    if labels and loose:
        where = source / loose[0]
        raise UserError(f"{where}: lies in no class folder (--no-labels packs without classes)")
    classes = tuple(sorted(set(tops), key=os.fsencode)) if labels else ()
    numbers = {name: i for i, name in enumerate(classes)}
    sources = [
        Source(path, extension_of(path), numbers.get(top))
        for path, top in zip(files.paths, tops, strict=True)
    ]
    return Listing(
        name=str(source),
        sources=sources,
        reader=FileReader(str(source)),
        sizes=files.sizes,
        stamp=stamp([files.stamp, *classes]),
        splits=(("train", len(sources)),),
        classes=classes,
        skipped=files.skipped,
    )


class FileReader(NamedTuple):
    """Reads files by their path below `folder`."""

    folder: str

    def read(self, reference: str) -> bytes:
        """The file.  BadImage where it may not be read, StorageError where it cannot be."""
        path = Path(self.folder, reference)
        try:
            return path.read_bytes()
        except PermissionError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None
        except OSError as error:
            raise StorageError(f"{shown(str(path))}: cannot be read: {error.strerror}") from None

    def name(self, reference: str) -> str:
        """The path as it was listed."""
        return reference


class Files(NamedTuple):
    """Paths that may be images, and what the file system says of them."""

    paths: list[str]
    sizes: npt.NDArray[np.int64]
    stamp: str
    skipped: tuple[tuple[str, str], ...]


def examine_files(reader: FileReader, paths: Sequence[str]) -> Files:
    """Sort out by name, and by whether there is a file at all."""
    kept: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        if extension_of(path) not in EXTENSIONS:
            suffix = shown(Path(path).suffix) or "no extension"
            skipped.append((path, f"{suffix}: not among .{', .'.join(EXTENSIONS)}"))
            continue
        try:
            status = Path(reader.folder, path).stat()
        except OSError as error:  # a link to nowhere, for one
            skipped.append((path, f"cannot be read: {error.strerror}"))
            continue
        kept.append(path)
        sizes.append(status.st_size)
        times.append(status.st_mtime_ns)
    digest = stamp([reader.folder, *kept], np.array(sizes, np.int64), np.array(times, np.int64))
    return Files(kept, np.array(sizes, np.int64), digest, tuple(skipped))


def extension_of(path: str) -> str:
    """In lower case, without its dot."""
    return Path(path).suffix[1:].lower()


def stamp(texts: Sequence[str], *columns: npt.NDArray) -> str:
    """A digest of names and numbers."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape"))
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()


def shown(name: str) -> str:
    """A file's name on one line, for a terminal: what is no text, and line ends, are escaped."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _visible_files(source: str) -> Iterator[str]:
    """Paths below `source`, through linked folders too, without hidden files and folders."""
    for folder, folders, names in os.walk(source, followlinks=True):
        here = Path(folder).resolve()
        # A link to a folder above would be followed forever.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.is_relative_to(Path(folder, name).resolve())
        ]
        below = os.path.relpath(folder, source)
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in names if not name.startswith("."))
