"""Selection of files for `mae pack`: --include, --exclude, and what systems keep among images."""

import re
from collections.abc import Sequence
from fnmatch import translate

from mae.base.errors import UserError
from mae.data.index import INDEX_FOLDER

SYSTEM_FOLDERS = ("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx")
SYSTEM_FOLDERS += ("lost+found", "$recycle.bin", "recycler", "system volume information")
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
SYSTEM_NAMES = frozenset(SYSTEM_FOLDERS + SYSTEM_FILES)
"""names, in lower case, of folders and files of operating systems and storage devices"""


def is_system_name(name: str) -> bool:
    """True for hidden names, which start with a dot, and for SYSTEM_NAMES."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_own_name(name: str) -> bool:
    """True for folders that this program writes: unfinished packs, indexes."""
    is_part = name.endswith(".part") or ".parts" in name
    return name.startswith(".") and (is_part or name == INDEX_FOLDER)


def select(
    paths: Sequence[str], include: Sequence[str], exclude: Sequence[str], where: str
) -> list[str]:
    """Paths that match a pattern of `include` (where there are any) and none of `exclude`.

    A pattern without a slash matches the name of a file or of a folder that it lies in; one with a
    slash the path from the start, of the file or such a folder.  A name equal to the pattern
    matches, whatever letters it has.
    Raises UserError, naming `where`, for a pattern without a match, and where nothing is left.
    """
    chosen = [_matches(paths, pattern, f"--include {pattern}: {where}") for pattern in include]
    excluded = [_matches(paths, pattern, f"--exclude {pattern}: {where}") for pattern in exclude]
    kept = set(paths) if not include else set().union(*chosen)
    kept.difference_update(*excluded)
    if paths and not kept:
        raise UserError(f"{where}: --include and --exclude leave no file of {len(paths):,}")
    return [path for path in paths if path in kept]


def _matches(paths: Sequence[str], pattern: str, where: str) -> set[str]:
    pattern = pattern.removeprefix("./").rstrip("/")
    fits = re.compile(translate(pattern)).match
    whole = "/" in pattern

    def matches(path: str) -> bool:
        parts = path.split("/")
        names = ["/".join(parts[: i + 1]) for i in range(len(parts))] if whole else parts
        return any(name == pattern or fits(name) for name in names)

    found = {path for path in paths if matches(path)}
    if not found:
        raise UserError(f"{where}: matches none of {len(paths):,} files")
    return found
