"""Shard lists: paths, brace patterns, globs."""

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from braceexpand import braceexpand

from mae.errors import UserError


def expand_shards(patterns: Sequence[str], key: str = "data.train") -> tuple[Path, ...]:
    """Existing shard files in the order written (globs sorted), each once.

    Raises UserError, naming `key`, for an empty list, a pattern that matches nothing or has a
    brace too many, a missing file, a shard named twice, or an address that is no local path.
    """
    if not patterns:
        raise UserError(f"{key}: no shards given: {key}='path/train-{{000000..000009}}.tar'")
    found: list[Path] = []
    missing: list[str] = []
    for pattern in patterns:
        if re.match(r"[\w+.-]+://|pipe:", pattern):
            raise UserError(f"{key}: {pattern}: only local shards can be read")
        for name in _expand_braces(pattern, key):
            # A file of that very name wins, so that names with brackets need no escaping.
            if Path(name).exists():
                matches = [name]
            elif glob.has_magic(name):
                matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (may be absolute)
            else:
                matches = []
            found += map(Path, matches)
            missing += [] if matches else [name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{key}: no such shard: {missing[0]}{more}")
    if folders := [path for path in found if path.is_dir()]:
        raise UserError(f"{key}: {folders[0]} is a folder: write {folders[0]}/*.tar")
    times = Counter(path.resolve() for path in found)
    if twice := [path for path in found if times[path.resolve()] > 1]:
        raise UserError(f"{key}: shard named twice: {twice[-1]}")
    return tuple(found)


def _expand_braces(pattern: str, key: str) -> list[str]:
    try:
        return list(braceexpand(str(Path(pattern).expanduser())))
    except ValueError:
        raise UserError(f"{key}: {pattern}: a brace has no partner") from None
