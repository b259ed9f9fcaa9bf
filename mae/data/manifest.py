"""All samples of a data set, numbered: which shard, where in it, how long, which label."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.data.index import COLUMNS, shard_index
from mae.data.scan import NO_LABEL, ShardIndex
from mae.data.shards import expand_shards
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache
from mae.storage.files import redacted
from mae.storage.retry import BackgroundThreads

REMOTE_READERS = 16


@dataclass(frozen=True, eq=False)
class Manifest:
    """All samples of a data set: shard after shard, numbered from 0."""

    shards: tuple[str, ...]
    """paths or addresses"""
    keys: tuple[bytes, ...]
    """per shard, joined by NUL"""
    first: npt.NDArray[np.int64]
    """number of each shard's first sample"""
    shard_bytes: tuple[int, ...]
    sha256: tuple[str, ...]
    """per shard"""
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.uint32]
    crc: npt.NDArray[np.uint32]
    label: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    """index into EXTENSIONS"""
    fingerprint: str
    """sha256 over names, positions, sizes and checksums: equal means the same samples in order"""
    datasets: tuple[int, ...]
    """number of shards of each data set of a mixture; of the only one else"""

    def __len__(self) -> int:
        return len(self.shard)

    def counts(self) -> npt.NDArray[np.int64]:
        """Samples of each shard."""
        return np.diff(self.first, append=len(self))

    def dataset_counts(self) -> list[npt.NDArray[np.int64]]:
        """Samples of each shard, by data set."""
        return np.split(self.counts(), np.cumsum(self.datasets)[:-1])

    def key(self, sample: int) -> str:
        """The sample's key: its name in the tar up to the first dot."""
        shard = int(self.shard[sample])
        key = self.keys[shard].split(b"\0")[sample - int(self.first[shard])]
        return key.decode("utf-8", "backslashreplace")

    def shard_name(self, sample: int) -> str:
        """The sample's shard, without the secrets of a signed address."""
        return redacted(self.shards[self.shard[sample]])

    def name(self, sample: int) -> str:
        """`shard: key KEY`, for messages."""
        return f"{self.shard_name(sample)}: key {self.key(sample)}"


def build_manifest(
    patterns: Sequence[str],
    key: str = "data.train",
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Index the shards that `patterns` name, from cached indexes where those are fresh.

    Remote shards go through `cache`.  `progress` hears of shards done and shards in all.
    Raises UserError, naming `key` or the shard: nothing found, no tar, damaged, no images;
    StorageError where remote shards cannot be had.
    """
    allow_pipe = cache is not None and cache.allow_pipe
    shards = expand_shards(patterns, key, allow_pipe)
    # Checksums and waiting for servers both leave the interpreter to other threads.
    threads = min(len(shards), max(os.cpu_count() or 1, REMOTE_READERS))
    with BackgroundThreads(threads, "index") as background:
        indexes = []
        waiting = [background.submit(shard_index, shard, index_dir, cache) for shard in shards]
        for future in waiting:
            indexes.append(future.result())
            progress(len(indexes), len(shards))
    manifest = join(shards, indexes)
    if not len(manifest):
        raise UserError(f"{key}: no images in {len(shards)} shards, first {redacted(shards[0])}")
    return manifest


def join(shards: Sequence[str], indexes: Sequence[ShardIndex]) -> Manifest:
    """One manifest from the indexes of its shards."""
    digest = hashlib.sha256()
    for shard, index in zip(shards, indexes, strict=True):
        name = redacted(shard).rpartition("/")[2]
        digest.update(f"{name} {len(index.offset)}\n".encode() + index.keys)
        for column in (index.offset, index.size, index.crc):
            digest.update(column.tobytes())
    counts = [len(index.offset) for index in indexes]
    columns = {
        name: np.concatenate([getattr(index, name) for index in indexes]) for name in COLUMNS
    }
    return Manifest(
        shards=tuple(shards),
        keys=tuple(index.keys for index in indexes),
        first=np.cumsum([0, *counts])[:-1],
        shard_bytes=tuple(index.bytes for index in indexes),
        sha256=tuple(index.sha256 for index in indexes),
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        fingerprint=digest.hexdigest(),
        datasets=(len(shards),),
        **columns,
    )


def merge(manifests: Sequence[Manifest]) -> Manifest:
    """Several data sets as one manifest, in the order given."""
    if len(manifests) == 1:
        return manifests[0]
    shards_before = np.cumsum([0, *(len(one.shards) for one in manifests)])
    samples_before = np.cumsum([0, *map(len, manifests)])
    columns = {name: np.concatenate([getattr(one, name) for one in manifests]) for name in COLUMNS}
    offsets = zip(manifests, shards_before, samples_before, strict=False)
    shifted = [
        (one.shard + np.int32(shards), one.first + samples) for one, shards, samples in offsets
    ]
    fingerprints = " ".join(one.fingerprint for one in manifests)
    return Manifest(
        shards=tuple(shard for one in manifests for shard in one.shards),
        keys=tuple(keys for one in manifests for keys in one.keys),
        first=np.concatenate([first for _, first in shifted]),
        shard_bytes=tuple(size for one in manifests for size in one.shard_bytes),
        sha256=tuple(digest for one in manifests for digest in one.sha256),
        shard=np.concatenate([shard for shard, _ in shifted]),
        fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        datasets=tuple(len(one.shards) for one in manifests),
        **columns,
    )


def select(manifest: Manifest, samples: npt.NDArray[np.int64]) -> Manifest:
    """The manifest of some samples alone, by their ascending numbers."""
    if len(samples) == len(manifest):
        return manifest
    counts = np.bincount(manifest.shard[samples], minlength=len(manifest.shards))
    parts = np.split(samples, np.cumsum(counts)[:-1])
    keys = []
    for known, first, own in zip(manifest.keys, manifest.first, parts, strict=True):
        names = known.split(b"\0")
        keys.append(b"\0".join(names[number] for number in (own - first).tolist()))
    digest = hashlib.sha256(f"{manifest.fingerprint} of which\n".encode())
    digest.update(samples.astype("<i8").tobytes())
    return Manifest(
        shards=manifest.shards,
        keys=tuple(keys),
        first=np.cumsum([0, *counts])[:-1],
        shard_bytes=manifest.shard_bytes,
        sha256=manifest.sha256,
        shard=manifest.shard[samples],
        fingerprint=digest.hexdigest(),
        datasets=manifest.datasets,
        **{name: getattr(manifest, name)[samples] for name in COLUMNS},
    )


def require_labels(manifest: Manifest, key: str) -> npt.NDArray[np.int64]:
    """The labels of all samples; UserError names the first sample without one."""
    return all_labelled(manifest.label, manifest.name, key)


def all_labelled(
    labels: npt.NDArray, name: Callable[[int], str], key: str
) -> npt.NDArray[np.int64]:
    """`labels` [n]; UserError, naming `key` and the first row without a label."""
    unlabelled = np.flatnonzero(labels == NO_LABEL)
    if len(unlabelled):
        raise UserError(
            f"{key}: {len(unlabelled)} of {len(labels)} samples have no label (.cls), "
            f"first {name(int(unlabelled[0]))}"
        )
    return labels.astype(np.int64)


def summary(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """What a person wants to know of a data set: (word, value) pairs."""
    labelled = manifest.label[manifest.label != NO_LABEL]
    kinds = zip(np.bincount(manifest.kind, minlength=len(EXTENSIONS)), EXTENSIONS, strict=True)
    counts = manifest.counts()
    spread = f" of {counts.min():,} to {counts.max():,} images" if len(counts) > 1 else ""
    yield "shards", f"{len(manifest.shards):,}{spread}"
    yield "images", f"{len(manifest):,}: " + ", ".join(f"{n:,} {kind}" for n, kind in kinds if n)
    yield "size", f"{manifest.size.sum() / 1e6:,.1f} MB of images"
    classes = len(np.unique(labelled))
    yield "labels", f"{len(labelled):,} samples, {classes:,} classes" if len(labelled) else "none"
    yield "fingerprint", manifest.fingerprint[:16]
