"""Folders of images as a source of `mae pack`; top-level folders may be classes."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import splitext
from typing import NamedTuple

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.class_names import normal, quoted
from mae.decoding.pixels import READ_FORMATS
from mae.pack.class_list import about_spelling
from mae.pack.image_sources import Paths, Sources
from mae.pack.listing import (
    FileReader,
    Listing,
    extension_of,
    fingerprint,
    stat_files,
)
from mae.pack.mask_pairs import (
    LIKELY,
    NONE,
    Pairs,
    likely_masks,
    pair_masks,
    refuse_unnamed_masks,
)
from mae.pack.selection import is_own_name, is_system_name, select

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
"""usual names of folders of splits, in lower case"""


class SplitFolders(UserError):
    """A folder whose folders are splits, such as train and val, and not classes."""

    def __init__(self, source: Path, names: Sequence[str]) -> None:
        self.names = names
        first = shlex.quote(str(source / names[0]))
        super().__init__(
            f"{source}: {', '.join(names)} are splits, not classes: pack each by itself, first "
            f"mae pack {first} OUT, then the others with --classes OUT (--labels takes them as "
            "classes, --no-labels packs all without)"
        )


class Found(NamedTuple):
    """Content of a folder."""

    files: list[str]
    """paths below the folder, sorted"""
    folders: list[str]
    """names of the folders directly in it"""
    system: list[str]
    """hidden and system files, and such folders, which are not searched"""
    unread: list[tuple[str, str]]
    """(folder, reason) of the others that are not searched"""


def list_folder(
    source: Path,
    labels: bool | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    masks: str | None = None,
) -> Listing:
    """List all image files below `source`, sorted by path, without hidden and system files.

    Args:
        source: the folder; links to folders are followed, except to one of their own parents.
        labels: True makes every top-level folder a class, False none; None makes them classes
            where no image lies directly in `source` and there are at least two folders.
        include: patterns of the files to list, as `select`; empty: all.
        exclude: patterns of files to exclude.
        masks: pattern of the images that are masks of others, as `pair_masks`; "none": there are
            none; "likely": as `likely_masks`; None: likely ones are refused.

    Raises UserError where there is no image, `labels` is True and an image has no class folder, or
    where folders are splits rather than classes, and images masks of others.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    name = str(source)
    found = search(source)
    chosen = select(found.files, include, exclude, name)
    pairs, notes = Pairs(chosen, {}, []), list[str]()
    if masks == LIKELY:
        if likely := likely_masks(chosen, name):
            pattern, pairs = likely
            number = _count(len(pairs.mask_of), "file is a mask", "files are masks")
            notes.append(f"{number} of images by the name ({printable(pattern)}), no images")
    elif masks is None:
        refuse_unnamed_masks(chosen, name)
    elif masks != NONE:
        pairs = pair_masks(chosen, masks, name)
    reader = FileReader(name)
    files = stat_files(reader, pairs.images)
    if not files.paths:
        content = _content(source, found, files.skipped)
        raise UserError(f"{source}: no images: expected {READ_FORMATS}, {content}")
    classes, numbers, about = _classes(source, files.paths, found.folders, labels)
    notes += about
    mask_files = stat_files(reader, list(pairs.mask_of.values()))
    mask_of = {i: mask for i, path in enumerate(files.paths) if (mask := pairs.mask_of.get(path))}
    sources = Sources(Paths(files.paths), map(extension_of, files.paths), numbers, mask_of)
    notes += _about_stems(files.paths)
    without = [path for path in files.paths if path not in pairs.mask_of] if pairs.mask_of else []
    if without:
        notes.append(f"{_count(len(without), 'image has', 'images have')} no mask: {without[0]} …")
    return Listing(
        name=name,
        sources=sources,
        reader=reader,
        sizes=files.sizes,
        fingerprint=fingerprint(
            [files.fingerprint, mask_files.fingerprint, *pairs.mask_of, *classes]
        ),
        splits=(("train", len(sources)),),
        classes=classes,
        skipped=(
            *files.skipped,
            *mask_files.skipped,
            *((path, "a mask without an image") for path in pairs.unpaired),
            *found.unread,
        ),
        excluded=(
            ("masks of these", len(mask_files.paths)),
            ("excluded by --include or --exclude", len(found.files) - len(chosen)),
        ),
        notes=(*_about_system(found.system), *notes),
        times=files.times,
    )


def search(source: Path) -> Found:
    """Search a folder; links are followed, except to folders that they lie in.

    Raises UserError where the folder itself cannot be read.
    """
    files: list[str] = []
    tops: list[str] = []
    system: list[str] = []
    unread: list[tuple[str, str]] = []
    top = source.stat()
    todo = [("", frozenset([(top.st_dev, top.st_ino)]))]
    while todo:
        below, parents = todo.pop()
        try:
            with os.scandir(source / below) as listed:
                entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if not below:
                raise UserError(f"{source}: cannot be read: {error.strerror}") from None
            unread.append((below.rstrip("/"), f"folder that cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            path = below + entry.name
            if is_system_name(entry.name):
                system += [] if is_own_name(entry.name) else [path]
            elif not _is_folder(entry):
                files.append(path)
            else:
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if identity in parents or (entry.is_symlink() and _lies_in(source / path)):
                    unread.append((path, "link to a folder that it lies in"))
                    continue
                todo.append((f"{path}/", parents | {identity}))
                if not below:
                    tops.append(path)
    # "é" may be one code point or two, and names may be invalid UTF-8: sort by bytes.
    return Found(sorted(files, key=os.fsencode), tops, system, unread)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _lies_in(link: Path) -> bool:
    """True where `link` points to one of the folders that it lies in."""
    return link.parent.resolve().is_relative_to(link.resolve())


def _content(source: Path, found: Found, skipped: Sequence[tuple[str, str]]) -> str:
    """Content of a folder without images, for a message."""
    suffixes = sorted({Path(path).suffix or Path(path).name for path, _ in skipped})
    if ".tar" in suffixes:
        return f"found shards; to pack them anew, give {shlex.quote(f'{source}/*.tar')}"
    others = [*(f"{path} ({reason})" for path, reason in found.unread), *found.system]
    shown = [*map(printable, suffixes[:5]), *map(printable, others[:3])]
    return f"found only {', '.join(shown)}" if shown else "found no files"


def _classes(
    source: Path, paths: Sequence[str], folders: Sequence[str], labels: bool | None
) -> tuple[tuple[str, ...], list[int | None], list[str]]:
    """Classes, class number of each path, notes."""
    tops = [path.partition("/")[0] for path in paths]
    names = sorted(
        {top for top, path in zip(tops, paths, strict=True) if "/" in path}, key=os.fsencode
    )
    loose = [path for path in paths if "/" not in path]
    if labels and loose:
        where = source / loose[0]
        raise UserError(f"{where}: lies in no class folder (--no-labels packs without classes)")
    if labels is None and len(names) > 1 and {name.lower() for name in names} <= SPLITS:
        raise SplitFolders(source, names)
    if not labels and (labels is False or loose or len(names) < 2):
        why = _why_no_labels(source, paths, names, loose) if labels is None else []
        return (), [None] * len(paths), why
    classes = tuple(sorted({normal(name) for name in names}, key=os.fsencode))
    number = {name: i for i, name in enumerate(classes)}
    notes = list(_about_classes(paths, names, folders))
    return classes, [number[normal(top)] for top in tops], notes


def _why_no_labels(
    source: Path, paths: Sequence[str], names: Sequence[str], loose: Sequence[str]
) -> list[str]:
    if loose and names:
        files = _count(len(loose), "file lies", "files lie")
        return [
            f"no labels: {files} beside the {_count(len(names), 'folder', 'folders')}, first "
            f"{printable(loose[0])} (--exclude them, and folders are classes)"
        ]
    if len(names) == 1:
        inner = {path.split("/")[1] for path in paths if path.count("/") > 1}
        below = shlex.quote(str(source / names[0]))
        how = f"mae pack {below} takes its folders" if len(inner) > 1 else "--labels takes it"
        return [f"no labels: all images lie in one folder, {quoted(names)} ({how} as classes)"]
    return []


def _about_classes(
    paths: Sequence[str], names: Sequence[str], folders: Sequence[str]
) -> Iterator[str]:
    """Notes on folders that may have been meant otherwise."""
    spellings = Counter(map(normal, names))
    if several := [name for name, count in spellings.items() if count > 1]:
        yield f"folders in two Unicode spellings are one class: {quoted(several)}"
    yield from about_spelling(tuple(spellings))
    if empty := sorted(set(folders) - set(names)):
        yield f"{_count(len(empty), 'folder has', 'folders have')} no images: {quoted(empty)}"
    inner = {tuple(path.split("/")[:2]) for path in paths if path.count("/") > 1}
    if len(inner) > len({top for top, _ in inner}):
        first = "/".join(min(inner))
        yield f"classes are the top-level folders; those below, as {printable(first)}, are not"


def _about_stems(paths: Sequence[str]) -> list[str]:
    """Note on images of the same name but for the extension."""
    if len({splitext(path)[0] for path in paths}) == len(paths):
        return []
    first: dict[str, str] = {}
    alike = [
        (one, path) for path in paths if (one := first.setdefault(splitext(path)[0], path)) != path
    ]
    pair = " and ".join(map(printable, alike[0]))
    names = _count(len(alike), "image has the name of another", "images have the names of others")
    return [f"{names} but for the ending, first {pair}: all are packed, each by itself"]


def _about_system(paths: Sequence[str]) -> list[str]:
    """Note on hidden and system files and folders."""
    if not paths:
        return []
    names = Counter(path.rpartition("/")[2] for path in paths)
    shown = ", ".join(
        printable(name) + (f" ({count:,})" if count > 1 else "")
        for name, count in names.most_common(5)
    )
    more = ", …" if len(names) > 5 else ""
    return [f"{len(paths):,} hidden or system files and folders are passed over: {shown}{more}"]


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
