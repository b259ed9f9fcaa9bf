"""Folders of image files as a source of `mae pack`; top-level folders may be classes."""

import os
from collections.abc import Iterator
from pathlib import Path

from mae.base.errors import UserError
from mae.decoding.pixels import EXTENSIONS
from mae.pack.listing import (
    FileReader,
    Listing,
    Source,
    extension_of,
    fingerprint,
    printable,
    stat_files,
)


def list_folder(source: Path, labels: bool | None = None) -> Listing:
    """List all image files below `source`, sorted by path; hidden files and folders are skipped.

    Args:
        source: the folder; links to folders are followed, except to one of their own parents.
        labels: True makes every top-level folder a class, False none; None makes them classes
            where no image lies directly in `source` and there are at least two folders.

    Raises UserError where there is no image, or `labels` is True and an image has no class folder.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    # "é" may be one code point or two, and names may be invalid UTF-8: sort by bytes.
    paths = sorted(_visible_files(str(source)), key=os.fsencode)
    files = stat_files(FileReader(str(source)), paths)
    if not files.paths:
        suffixes = sorted({Path(path).suffix or Path(path).name for path, _ in files.skipped})
        found = f"only {', '.join(map(printable, suffixes[:5]))}" if suffixes else "no files"
        raise UserError(f"{source}: no images: expected .{', .'.join(EXTENSIONS)}, found {found}")

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
        fingerprint=fingerprint([files.fingerprint, *classes]),
        splits=(("train", len(sources)),),
        classes=classes,
        skipped=files.skipped,
    )


def _visible_files(source: str) -> Iterator[str]:
    """Paths of files below `source`, without hidden files and folders; links are followed."""
    for folder, folders, names in os.walk(source, followlinks=True):
        here = Path(folder).resolve()
        # A link to one of its own parents would be followed forever.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.is_relative_to(Path(folder, name).resolve())
        ]
        below = os.path.relpath(folder, source)
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in names if not name.startswith("."))
