"""Image files of a command line: single files and folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError
from mae.decoding.pixels import EXTENSIONS, READ_FORMATS


class ImageFile(NamedTuple):
    """An image file, and its name in results."""

    path: Path
    name: str
    """path below the folder that was given; of a single file its own name"""


def is_image_file(path: str | Path) -> bool:
    """True for a name with the extension of an image."""
    return Path(path).suffix[1:].lower() in EXTENSIONS


def are_image_files(sources: Sequence[str]) -> bool:
    """True where all `sources` are folders, or files with the extension of an image."""
    return all(is_image_file(source) or Path(source).is_dir() for source in sources)


def image_files(sources: Sequence[str], *, distinct_names: bool = True) -> list[ImageFile]:
    """Image files of files and folders, which are searched recursively; hidden files are not read.

    Sorted by name in each folder.  Raises UserError where a source does not exist, a folder holds
    no image, or, with `distinct_names`, two files have one name.
    """
    found: list[ImageFile] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [
                ImageFile(path, path.relative_to(source).as_posix()) for path in _below(source)
            ]
            if not inside:
                raise UserError(f"{source}: no images in this folder ({READ_FORMATS})")
            found += inside
        elif source.exists():
            found.append(ImageFile(source, source.name))
        else:
            raise UserError(f"{source}: no such file or folder")
    names: dict[str, Path] = {}
    for path, name in found:
        if name in names and distinct_names:
            raise UserError(f"{names[name]} and {path}: results of both would be named {name}")
        names[name] = path
    return found


def _below(folder: Path) -> list[Path]:
    """Image files below a folder, sorted; links to folders are followed, except in a ring."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        above = {os.path.realpath(place), *map(str, Path(os.path.realpath(place)).parents)}
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(place, name)) not in above
        ]
        found += [
            Path(place, name)
            for name in names
            if not name.startswith(".") and is_image_file(name) and Path(place, name).is_file()
        ]
    return sorted(found)
