"""Shard lists from paths, addresses, brace patterns, globs and wids indexes."""

import glob
import io
import json
import os
import posixpath
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from mae.base.errors import UserError
from mae.base.files import require_regular
from mae.base.redaction import lacks_secret, redacted
from mae.data.image_files import is_image_file
from mae.storage.remote import (
    at_most,
    canonical_address,
    check_pipe_allowed,
    download,
    glob_remote,
    has_magic,
    is_remote,
)

MAX_SEARCHED = 10_000
"""maximum number of files of a folder that are searched for an image"""
MAX_WIDS = 256 << 20
"""maximum size of a wids index in bytes: some 100 for each shard"""


def expand_shards(
    patterns: Sequence[str], key: str = "data.train", allow_pipe: bool = False
) -> tuple[str, ...]:
    """The paths and addresses that `patterns` stand for, in the order written (globs sorted).

    Files and folders that exist under the very name, with brackets and braces, are taken literally.
    A name that ends in `.json` is a wids index and stands for the shards it lists; `pipe:` is not
    expanded.  Local shards exist; remote ones are not checked, except those found by a glob.
    Raises UserError, naming `key`, for an empty list, a pattern that matches nothing, an unmatched
    brace, a missing file, a shard named twice, a malformed index, a `pipe:` that is not allowed;
    StorageError where a server does not answer.
    """
    if not patterns:
        raise UserError(f"{key}: no shards given: {key}='path/train-{{000000..000009}}.tar'")
    found: list[str] = []
    missing: list[str] = []
    try:
        for pattern in patterns:
            for name in _expand_braces(pattern):
                matches = _match(name, allow_pipe)
                found += matches
                missing += [] if matches else [redacted(name)]
    except UserError as error:
        raise type(error)(f"{key}: {error}") from None
    local = [location for location in found if not is_remote(location)]
    missing += [path for path in local if not exists(Path(path))]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{key}: no such {_kind(missing[0])}: {missing[0]}{more}")
    if folders := [path for path in local if Path(path).is_dir()]:
        raise UserError(f"{key}: {_about_folder(os.path.commonpath(folders))}")
    for path in local:
        try:
            require_regular(Path(path))
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
    if images := [path for path in local if is_image_file(path)]:
        folder = str(Path(images[0]).parent)
        raise UserError(f"{key}: {images[0]} is an image, no shard: {_pack_first(folder)}")
    refuse_repeated(found, key)
    return tuple(found)


def _kind(path: str) -> str:
    """Kind of thing that a missing path may have meant, for messages."""
    name = path.lower()
    if is_image_file(name) or name.endswith((".json", ".safetensors")):
        return "file"
    is_shard = name.endswith(".tar") or has_magic(name) or is_remote(name)
    return "shard" if is_shard else "folder or shard"


def refuse_repeated(locations: Sequence[str], key: str) -> None:
    """Raise UserError, naming `key`, where a shard is named twice."""
    resolved = list(map(_resolved, locations))
    times = Counter(resolved)
    twice = [one for one, name in zip(locations, resolved, strict=True) if times[name] > 1]
    if twice:
        raise UserError(f"{key}: shard named twice: {redacted(twice[-1])}")


def _expand_braces(pattern: str) -> list[str]:
    if pattern.startswith("pipe:"):
        return [pattern]  # the shell expands its braces and stars
    if pattern.startswith("file:///"):
        pattern = pattern.removeprefix("file://")
    folder, rest = ("", pattern) if is_remote(pattern) else _literal_folder(with_home(pattern))
    if folder and exists(Path(folder, rest)):
        return [str(Path(folder, rest))]
    try:
        return [str(Path(folder, name)) if folder else name for name in braceexpand(rest)]
    except ValueError:
        raise UserError(f"{redacted(pattern)}: unmatched brace") from None


def _match(name: str, allow_pipe: bool) -> list[str]:
    """The locations that one name stands for; none for a missing path."""
    if lacks_secret(name):
        raise UserError(
            f"{redacted(name)}: its secret part was not recorded with the run: give the shards "
            "again"
        )
    check_pipe_allowed(name, allow_pipe)
    if name.startswith("pipe:"):
        return [name]
    path = name.partition("?")[0] if is_remote(name) else name
    if path.lower().endswith(".json"):
        return _read_wids(name, allow_pipe)
    if is_remote(name):
        found = glob_remote(name) if has_magic(name) else [name]
        # Brackets alone may be part of the name; the server says whether there is such a file.
        return found or ([] if "*" in name else [name])
    if exists(Path(name)):
        return [name]
    folder, rest = _literal_folder(name)
    found = glob.glob(rest, root_dir=folder, recursive=True)  # noqa: PTH207  (may be absolute)
    return sorted(str(Path(folder, path)) for path in found)


def _literal_folder(path: str) -> tuple[str, str]:
    """Longest leading folder of `path` that exists under this very name, and the rest."""
    parent = next(folder for folder in Path(path).parents or [Path()] if exists(folder))
    return str(parent), str(Path(path).relative_to(parent))


def with_home(path: str) -> str:
    """`path` with its home folder, unless `~…` is a name here or no user's."""
    with suppress(RuntimeError):
        if not exists(Path(path.partition("/")[0])):
            return str(Path(path).expanduser())
    return path


def exists(path: Path) -> bool:
    """True where there is a file or folder; UserError for a path that cannot be looked at."""
    try:
        return path.exists()
    except OSError as error:  # names that are too long, folders without permission
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _about_folder(folder: str) -> str:
    """Sentence on a folder given as a shard: its content, the remedy."""
    names = islice(
        (name for _, _, files in os.walk(folder) for name in sorted(files)), MAX_SEARCHED
    )
    if any(Path(folder).glob("*.tar")):
        pattern = shlex.quote(f"{folder}/*.tar")
        return (
            f"{folder} is a folder with tars in it: write {pattern}, or move them away where its "
            "images are meant"
        )
    if any(map(is_image_file, names)):
        return f"{folder} is a folder of images, no shards: {_pack_first(folder)}"
    return f"{folder} is a folder without .tar files"


def _pack_first(folder: str) -> str:
    out = f"{folder.rstrip('/')}-shards" if Path(folder).name else "shards"
    pack = shlex.join(["mae", "pack", folder, out])
    return f"pack the images first: {pack} (then write {shlex.quote(f'{out}/train-*.tar')})"


def _resolved(location: str) -> str:
    return canonical_address(location) if is_remote(location) else str(Path(location).resolve())


def _read_wids(index: str, allow_pipe: bool) -> list[str]:
    """The shards of a wids index (`{"shardlist": [{"url": …}, …]}`), in its order.

    Relative urls start at its "base", else at its own folder.  Raises UserError where it is
    malformed, or where a remote index names local files or commands.
    """
    shown = redacted(index)
    try:
        content = json.loads(_read_bytes(index))
    except (ValueError, RecursionError):  # not JSON or not UTF-8
        raise UserError(f"{shown}: is not JSON") from None
    shards = content.get("shardlist") if isinstance(content, dict) else None
    if not isinstance(shards, list) or not shards:
        raise UserError(f'{shown}: is not a wids index: no "shardlist" in it')
    own_folder = posixpath.dirname(index.partition("?")[0] if is_remote(index) else index)
    base = content.get("base") or own_folder
    if not isinstance(base, str) or not is_name(base):
        raise UserError(f'{shown}: "base" is no folder or address')
    found = []
    for number, shard in enumerate(shards):
        url = shard.get("url") if isinstance(shard, dict) else None
        if not isinstance(url, str) or not url or not is_name(url):
            raise UserError(f'{shown}: shardlist[{number}] has no "url" that is a name')
        location = join_address(base, url)
        check_pipe_allowed(location, allow_pipe)
        local = not is_remote(location) or location.startswith(("pipe:", "file:"))
        if is_remote(index) and local:
            raise UserError(f"{shown}: shardlist[{number}] is on this machine: {redacted(url)}")
        found.append(location)
    return found


def is_name(text: str) -> bool:
    """False for text that is no path and no address: NUL, line ends, half of a surrogate pair."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return not any(letter in text for letter in "\0\n\r")


def _read_bytes(location: str) -> bytes:
    if is_remote(location):
        body = io.BytesIO()
        download(location, body, check=at_most(MAX_WIDS, location))
        return body.getvalue()
    if not exists(Path(location)):
        raise UserError(f"no such {_kind(location)}: {location}")
    require_regular(Path(location))
    try:
        return Path(location).read_bytes()
    except OSError as error:
        raise UserError(f"{location}: cannot be read: {error.strerror}") from None


def join_address(base: str, url: str) -> str:
    """`url`, resolved against the folder or address `base` unless it is an address itself."""
    if is_remote(url):
        return url
    if not is_remote(base):
        return posixpath.normpath(posixpath.join(base, url))
    scheme, _, rest = base.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}{posixpath.normpath(posixpath.join('/', path, url))}"
