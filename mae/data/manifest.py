"""What is in the shards: where each image starts, how long it is, its label if it has one.

Made by a header scan and cached per shard (`.mae-index/NAME.tar.npz` beside the shards, or in
`data.index_dir`); a cached index is used only while the shard's size and time are the same.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.data.shards import expand_shards
from mae.data.tar import Member, walk
from mae.errors import UserError

EXTENSIONS = ("jpg", "jpeg", "png")
FORMAT = 1
NO_LABEL = -1
LONGEST_LABEL = 20


class ShardIndex(NamedTuple):
    """The samples of one shard, in tar order."""

    keys: bytes
    """joined by NUL: a Python string for each of a million samples would cost every worker"""
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    """index into EXTENSIONS"""
    label: npt.NDArray[np.int64]
    """class number from the sample's `.cls`, or NO_LABEL"""


@dataclass(frozen=True, eq=False)
class Manifest:
    """All samples of a data set: shard after shard, numbered from 0."""

    shards: tuple[Path, ...]
    keys: tuple[bytes, ...]
    """per shard, joined by NUL"""
    first: npt.NDArray[np.int64]
    """number of each shard's first sample"""
    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    fingerprint: str
    """sha256 over names, positions and sizes: equal means the same samples in the same order"""

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, sample: int) -> str:
        """`shard: key KEY`, for messages."""
        shard = int(self.shard[sample])
        keys = self.keys[shard].split(b"\0")
        key = keys[sample - int(self.first[shard])].decode("utf-8", "backslashreplace")
        return f"{self.shards[shard]}: key {key}"


def build_manifest(
    patterns: Sequence[str], key: str = "data.train", index_dir: Path | None = None
) -> Manifest:
    """Index the shards that `patterns` name, from cache where that is fresh.

    Raises UserError, naming `key` or the shard: nothing found, no tar, damaged, no images.
    """
    shards = expand_shards(patterns, key)
    indexes = [shard_index(path, index_dir) for path in shards]
    return join(shards, indexes)


def join(shards: Sequence[Path], indexes: Sequence[ShardIndex]) -> Manifest:
    """One manifest from the indexes of its shards."""
    digest = hashlib.sha256()
    for path, index in zip(shards, indexes, strict=True):
        digest.update(f"{path.name} {len(index.offset)}\n".encode() + index.keys)
        digest.update(index.offset.tobytes() + index.size.tobytes())
    counts = [len(index.offset) for index in indexes]

    def column(name: str) -> npt.NDArray[np.int64]:
        return np.concatenate([getattr(index, name) for index in indexes])

    return Manifest(
        shards=tuple(shards),
        keys=tuple(index.keys for index in indexes),
        first=np.cumsum([0, *counts])[:-1],
        shard=np.repeat(np.arange(len(shards)), counts),
        offset=column("offset"),
        size=column("size"),
        kind=column("kind"),
        label=column("label"),
        fingerprint=digest.hexdigest(),
    )


def shard_index(path: Path, index_dir: Path | None = None) -> ShardIndex:
    """The index of one shard: cached, or scanned and then cached where that is possible."""
    cache = _cache_path(path, index_dir)
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    stamp = np.array([FORMAT, status.st_size, status.st_mtime_ns])
    cached = _load(cache, stamp)
    if cached is not None:
        return cached
    index = scan(path)
    _store(cache, stamp, index)
    return index


def scan(path: Path) -> ShardIndex:
    """Read all headers (and the few bytes of each `.cls`) of one shard.

    Raises UserError for a damaged tar, a shard without images, a key with two images or labels,
    a `.cls` that holds no number.
    """
    try:
        with path.open("rb") as file:
            return _scan(path, file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _scan(path: Path, file: int) -> ShardIndex:
    images: dict[str, tuple[Member, int]] = {}
    labels: dict[str, int] = {}
    seen: set[str] = set()
    for member in walk(path):
        key, extension = split_name(member.name)
        seen.add(extension)
        if extension in EXTENSIONS:
            if key in images:
                raise UserError(f"{path}: key {key}: more than one image ({member.name})")
            images[key] = (member, EXTENSIONS.index(extension))
        elif extension == "cls":
            if key in labels:
                raise UserError(f"{path}: key {key}: more than one label ({member.name})")
            text = os.pread(file, min(member.size, LONGEST_LABEL + 1), member.offset)
            labels[key] = _read_label(text, path, key)
    if not images:
        names = [f".{extension}" if extension else "no extension" for extension in sorted(seen)]
        held = f"only {', '.join(names[:5])}" if seen else "no files"
        held += f" and {len(seen) - 5} more" if len(seen) > 5 else ""
        raise UserError(f"{path}: no images: expected .{', .'.join(EXTENSIONS)}, found {held}")
    members = list(images.values())
    return ShardIndex(
        keys="\0".join(images).encode("utf-8", "surrogateescape"),
        offset=np.array([member.offset for member, _ in members], np.int64),
        size=np.array([member.size for member, _ in members], np.int64),
        kind=np.array([kind for _, kind in members], np.int64),
        label=np.array([labels.get(key, NO_LABEL) for key in images], np.int64),
    )


def split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key runs to the first dot of the base name; the rest, lower case.

    Hidden files (`.jpg`) have a key alone.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem else (name, "")


def require_labels(manifest: Manifest, key: str) -> npt.NDArray[np.int64]:
    """The labels of all samples; UserError names the first sample without one."""
    unlabelled = np.flatnonzero(manifest.label == NO_LABEL)
    if len(unlabelled):
        raise UserError(
            f"{key}: {len(unlabelled)} of {len(manifest)} samples have no label (.cls), "
            f"first {manifest.name(int(unlabelled[0]))}"
        )
    return manifest.label


def _read_label(text: bytes, path: Path, key: str) -> int:
    try:
        label = int(text)
    except ValueError:
        raise UserError(f"{path}: key {key}: .cls holds {text!r}, not a number") from None
    if not 0 <= label < 2**31:
        raise UserError(f"{path}: key {key}: .cls holds {label}, not a class number")
    return label


def _cache_path(path: Path, index_dir: Path | None) -> Path:
    if index_dir is None:
        return path.parent / ".mae-index" / f"{path.name}.npz"
    # Shards of different folders may share a base name.
    folder = hashlib.sha256(str(path.parent.resolve()).encode()).hexdigest()[:16]
    return index_dir / folder / f"{path.name}.npz"


def _load(cache: Path, stamp: npt.NDArray[np.int64]) -> ShardIndex | None:
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not np.array_equal(arrays["stamp"], stamp):
                return None
            keys = arrays["keys"].tobytes()
            columns = {name: arrays[name] for name in ("offset", "size", "kind", "label")}
    except Exception:  # absent, or damaged in any of many ways: a scan mends it
        return None
    return ShardIndex(keys, **columns)


def _store(cache: Path, stamp: npt.NDArray[np.int64], index: ShardIndex) -> None:
    """Write the cache whole or not at all; a folder that cannot be written only costs time."""
    keys = np.frombuffer(index.keys, np.uint8)
    columns = {name: getattr(index, name) for name in ("offset", "size", "kind", "label")}
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            whole = Path(folder, cache.name)
            np.savez(whole, stamp=stamp, keys=keys, **columns)
            whole.replace(cache)
    except OSError:
        return


def summary(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """What a person wants to know of a data set: (word, value) pairs."""
    labelled = manifest.label[manifest.label != NO_LABEL]
    kinds = zip(np.bincount(manifest.kind, minlength=len(EXTENSIONS)), EXTENSIONS, strict=True)
    yield "shards", f"{len(manifest.shards):,}"
    yield "images", f"{len(manifest):,}: " + ", ".join(f"{n:,} {kind}" for n, kind in kinds if n)
    yield "size", f"{manifest.size.sum() / 1e6:,.1f} MB of images"
    classes = len(np.unique(labelled))
    yield "labels", f"{len(labelled):,} samples, {classes:,} classes" if len(labelled) else "none"
    yield "fingerprint", manifest.fingerprint[:16]
