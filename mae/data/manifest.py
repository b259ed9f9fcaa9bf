"""Manifest: the numbered samples of a data set with shard, position, size, checksum and label."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.base.redaction import redacted, unsigned
from mae.data.index import COLUMNS, shard_index
from mae.data.labels import NO_LABEL, with_class_numbers
from mae.data.passed_over import PassedOver, kinds_of_files, over_all
from mae.data.scan import ShardIndex, is_image
from mae.data.shards import expand_shards
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache
from mae.storage.retry import BackgroundThreads

REMOTE_READERS = 16
"""minimum number of shards indexed at a time, since servers answer slowly"""


@dataclass(frozen=True, eq=False)
class Manifest:
    """The samples of a data set, numbered from 0, shard after shard."""

    shards: tuple[str, ...]
    """paths or addresses"""
    keys: tuple[bytes, ...]
    """sample keys of each shard, joined by NUL"""
    first: npt.NDArray[np.int64]
    """number of each shard's first sample"""
    shard_bytes: tuple[int, ...]
    """size of each shard"""
    sha256: tuple[str, ...]
    """checksum of each shard, hexadecimal"""
    shard: npt.NDArray[np.int32]
    """[n]: shard of each sample, as the columns below"""
    offset: npt.NDArray[np.int64]
    """position of the image in the shard, in bytes"""
    size: npt.NDArray[np.uint32]
    """size of the image in bytes"""
    crc: npt.NDArray[np.uint32]
    """crc32 of the image's bytes"""
    label: npt.NDArray[np.int32]
    """class number, or NO_LABEL"""
    kind: npt.NDArray[np.uint8]
    """file format, as an index into EXTENSIONS"""
    fingerprint: str
    """sha256 over keys, positions, sizes and checksums: equal for the same samples in one order"""
    datasets: tuple[int, ...]
    """number of shards of each data set (more than one in a mixture)"""
    former_fingerprint: str = ""
    """the fingerprint that earlier versions recorded: over the shards' names, too"""
    passed_over: tuple[tuple[PassedOver, ...], ...] = ()
    """of each shard, the members that are, or may be, images or labels, and are not read"""
    others: tuple[tuple[tuple[str, int], ...], ...] = ()
    """of each shard, (extension, number) of the other members that are not read"""
    class_names: tuple[str, ...] = ()
    """names of the classes from 0 on, in commands that use labels; empty: unknown"""
    class_note: str = ""
    """line on labels whose shards have no class names, while others have some; empty: none"""

    def __len__(self) -> int:
        return len(self.shard)

    def counts(self) -> npt.NDArray[np.int64]:
        """Number of samples of each shard."""
        return np.diff(self.first, append=len(self))

    def dataset_counts(self) -> list[npt.NDArray[np.int64]]:
        """Number of samples of each shard, an array per data set."""
        return np.split(self.counts(), np.cumsum(self.datasets)[:-1])

    def key(self, sample: int) -> str:
        """The sample's key, for people: its name in the tar up to the first dot."""
        shard = int(self.shard[sample])
        key = self.keys[shard].split(b"\0")[sample - int(self.first[shard])]
        return printable(key.decode("utf-8", "backslashreplace"))

    def shard_name(self, sample: int) -> str:
        """The sample's shard, without the signature of a signed address."""
        return printable(redacted(self.shards[self.shard[sample]]))

    def name(self, sample: int) -> str:
        """`SHARD: key KEY`, for messages."""
        return f"{self.shard_name(sample)}: key {self.key(sample)}"

    def is_recorded_as(self, fingerprint: str) -> bool:
        """True where `fingerprint`, recorded by this or an earlier version, is of these samples."""
        return fingerprint in (self.fingerprint, self.former_fingerprint)

    def warnings(self) -> list[str]:
        """Lines on members that may be images or labels and are not read, and on class names."""
        shards = map(redacted, self.shards)
        found = over_all(zip(shards, self.passed_over, strict=False))
        lines = [f"not read: {one}" for one in found]
        beside = {name: count for name, count in self.other_members().items() if is_image(name)}
        if beside:
            lines.append(
                f"not read: {kinds_of_files(beside)}: images beside the one of their key, KEY.jpg "
                "for example; rename them without the dot in between to use them, too"
            )
        return lines + [self.class_note] * bool(self.class_note)

    def other_members(self) -> Counter[str]:
        """Numbers of the members that are neither read nor warned of, by extension."""
        counts: Counter[str] = Counter()
        for found in self.others:
            counts.update(dict(found))
        return counts


def build_manifest(
    patterns: Sequence[str],
    key: str = "data.train",
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Index the shards that `patterns` name, from cached indexes where those are up to date.

    Remote shards are read through `cache`.  `progress` is called with the number of indexed shards
    and of all shards.  Raises UserError, naming `key` or the shard, where no shard is found, a
    shard is not a tar or damaged, or there are no images; StorageError where a remote shard cannot
    be fetched.
    """
    allow_pipe = cache is not None and cache.allow_pipe
    shards = expand_shards(patterns, key, allow_pipe)
    # Checksums and waits for servers both release the interpreter lock.
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
    """The manifest of one data set, from the indexes of its shards.

    Labels that are names become numbers by the classes.txt beside their shard.
    """
    indexes = with_class_numbers(shards, indexes)
    digest, former = hashlib.sha256(), hashlib.sha256()
    for shard, index in zip(shards, indexes, strict=True):
        name = unsigned(shard).rpartition("/")[2]
        former.update(f"{name} ".encode("utf-8", "surrogateescape"))
        for one in (digest, former):
            one.update(f"{len(index.offset)}\n".encode() + index.keys)
            for column in (index.offset, index.size, index.crc):
                one.update(column.tobytes())
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
        former_fingerprint=former.hexdigest(),
        passed_over=tuple(index.passed_over for index in indexes),
        others=tuple(index.others for index in indexes),
        class_names=(),
        class_note="",
        **columns,
    )


def merge(manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of several data sets, one after the other."""
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
    former = " ".join(one.former_fingerprint for one in manifests)
    return Manifest(
        shards=tuple(shard for one in manifests for shard in one.shards),
        keys=tuple(keys for one in manifests for keys in one.keys),
        first=np.concatenate([first for _, first in shifted]),
        shard_bytes=tuple(size for one in manifests for size in one.shard_bytes),
        sha256=tuple(digest for one in manifests for digest in one.sha256),
        shard=np.concatenate([shard for shard, _ in shifted]),
        fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        datasets=tuple(len(one.shards) for one in manifests),
        former_fingerprint=hashlib.sha256(former.encode()).hexdigest(),
        passed_over=tuple(found for one in manifests for found in one.passed_over),
        others=tuple(found for one in manifests for found in one.others),
        class_names=(),
        class_note="",
        **columns,
    )


def select(manifest: Manifest, samples: npt.NDArray[np.int64]) -> Manifest:
    """The manifest of a subset of samples, given by their ascending numbers."""
    if len(samples) == len(manifest):
        return manifest
    counts = np.bincount(manifest.shard[samples], minlength=len(manifest.shards))
    parts = np.split(samples, np.cumsum(counts)[:-1])
    keys = []
    for known, first, own in zip(manifest.keys, manifest.first, parts, strict=True):
        names = known.split(b"\0")
        keys.append(b"\0".join(names[number] for number in (own - first).tolist()))
    chosen = samples.astype("<i8").tobytes()
    fingerprints = [
        hashlib.sha256(f"{whole} of which\n".encode() + chosen).hexdigest()
        for whole in (manifest.fingerprint, manifest.former_fingerprint)
    ]
    return Manifest(
        shards=manifest.shards,
        keys=tuple(keys),
        first=np.cumsum([0, *counts])[:-1],
        shard_bytes=manifest.shard_bytes,
        sha256=manifest.sha256,
        shard=manifest.shard[samples],
        fingerprint=fingerprints[0],
        datasets=manifest.datasets,
        former_fingerprint=fingerprints[1],
        passed_over=manifest.passed_over,
        others=manifest.others,
        class_names=manifest.class_names,
        class_note=manifest.class_note,
        **{name: getattr(manifest, name)[samples] for name in COLUMNS},
    )


def require_labels(manifest: Manifest, key: str) -> npt.NDArray[np.int64]:
    """Labels of all samples, int64 [n]; UserError, naming `key`, where a sample has none."""
    return checked_labels(manifest.label, manifest.name, key, label_faults(manifest))


def label_faults(manifest: Manifest) -> str:
    """Faults of `.cls` members that hold no class number, on one line; "" for none."""
    return "; ".join(line for line in manifest.warnings() if "labels (.cls)" in line)


def checked_labels(
    labels: npt.NDArray, name: Callable[[int], str], key: str, faults: str = ""
) -> npt.NDArray[np.int64]:
    """`labels` [n] as int64; UserError, naming `key` and the first row without a label.

    `faults`: what is known of the missing ones (`label_faults`).
    """
    unlabelled = np.flatnonzero(labels == NO_LABEL)
    if len(unlabelled):
        raise UserError(
            f"{key}: {len(unlabelled)} of {len(labels)} samples have no label (.cls), "
            f"first {name(int(unlabelled[0]))}{f'; {faults}' if faults else ''}"
        )
    return labels.astype(np.int64)


def labels_digest(manifest: Manifest) -> str:
    """sha256 over the labels, which the fingerprint does not cover."""
    return hashlib.sha256(manifest.label.tobytes()).hexdigest()


def summary(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """Summary of a data set for people, as (name, value) pairs."""
    labelled = manifest.label[manifest.label != NO_LABEL]
    kinds = zip(np.bincount(manifest.kind, minlength=len(EXTENSIONS)), EXTENSIONS, strict=True)
    counts = manifest.counts()
    spread = f" of {counts.min():,} to {counts.max():,} images" if len(counts) > 1 else ""
    yield "shards", f"{len(manifest.shards):,}{spread}"
    yield "images", f"{len(manifest):,}: " + ", ".join(f"{n:,} {kind}" for n, kind in kinds if n)
    yield "size", f"{manifest.size.sum() / 1e6:,.1f} MB of images"
    classes = len(np.unique(labelled))
    yield "labels", f"{len(labelled):,} samples, {classes:,} classes" if len(labelled) else "none"
    if others := manifest.other_members():
        yield "not read", f"{kinds_of_files(others)}"
    yield "fingerprint", manifest.fingerprint[:16]
