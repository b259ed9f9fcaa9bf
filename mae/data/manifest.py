"""Manifest: the numbered samples of a data set with shard, position, size, checksum and label."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from mae.base.printable import printable
from mae.base.redaction import file_name, redacted
from mae.data.columns import AnyColumn, chunks
from mae.data.index import COLUMNS
from mae.data.labels import NO_LABEL
from mae.data.passed_over import PassedOver, kinds_of_files, over_all
from mae.data.scan import COMPANIONS, is_image
from mae.data.shard_index import ShardIndex
from mae.decoding.pixels import EXTENSIONS


class Identity(TypedDict):
    """Size and checksum of a shard."""

    size: int
    sha256: str


class ManifestSource(NamedTuple):
    """File of a manifest on this machine, and the path or address that it was given as."""

    file: Path
    location: str


@dataclass(frozen=True, eq=False)
class Manifest:
    """The samples of a data set, numbered from 0, shard after shard."""

    shards: Sequence[str]
    """paths or addresses"""
    keys: Sequence[bytes]
    """sample keys of each shard, joined by NUL"""
    first: npt.NDArray[np.int64]
    """number of each shard's first sample"""
    shard_bytes: npt.NDArray[np.int64]
    """size of each shard"""
    sha256: npt.NDArray[np.uint8]
    """[shards 32]: checksum of each shard"""
    offset: AnyColumn
    """[n]: position of the image in the shard, in bytes, as the columns below; any may be mapped
    from a file, so read the rows at hand"""
    size: AnyColumn
    """size of the image in bytes"""
    crc: AnyColumn
    """crc32 of the image's bytes"""
    label: AnyColumn
    """class number, or NO_LABEL"""
    kind: AnyColumn
    """file format, as an index into EXTENSIONS"""
    fingerprint: str
    """sha256 over keys, positions, sizes and checksums: equal for the same samples in one order"""
    datasets: tuple[int, ...]
    """number of shards of each data set (more than one in a mixture)"""
    former_fingerprint: str = ""
    """the fingerprint that earlier versions recorded: over the shards' names, too"""
    passed_over: tuple[tuple[PassedOver, ...], ...] = ()
    """members of each shard that are, or may be, images or labels, and are not read"""
    others: tuple[tuple[tuple[str, int], ...], ...] = ()
    """(extension, number) of the other members of each shard, which are not read"""
    class_names: tuple[str, ...] = ()
    """names of the classes from 0 on, in commands that use labels; empty: unknown"""
    second: "Manifest | None" = None
    """the second images of pairs, sample by sample; None: samples are single images"""
    class_lists: tuple[str, ...] = ()
    """of each shard, as `ShardIndex.class_list`; empty: not known, or none"""
    source: ManifestSource | None = None
    """file that the manifest is mapped from, as it is there; None: it is in memory, or changed"""
    class_note: str = ""
    """line on labels whose shards have no class names, while others have some; empty: none"""

    def __len__(self) -> int:
        return len(self.offset)

    def shard_of(self, samples: Any) -> Any:
        """Shard of each sample: a number for a number, an array for an array."""
        found = np.searchsorted(self.first, samples, "right") - 1
        return int(found) if np.ndim(found) == 0 else found

    def identity(self, shard: int) -> Identity:
        """Size and checksum of a shard, by which its cached copy is known."""
        return {"size": int(self.shard_bytes[shard]), "sha256": self.sha256[shard].tobytes().hex()}

    def counts(self) -> npt.NDArray[np.int64]:
        """Number of samples of each shard."""
        return np.diff(self.first, append=len(self))

    def dataset_counts(self) -> list[npt.NDArray[np.int64]]:
        """Number of samples of each shard, an array per data set."""
        return np.split(self.counts(), np.cumsum(self.datasets)[:-1])

    def changed(self, **values: Any) -> "Manifest":
        """The manifest with other values, which its file does not have."""
        return replace(self, source=None, **values)

    def index_of(self, shard: int) -> ShardIndex:
        """Index of one shard, read from the columns."""
        samples = self.samples_of(shard)
        rows = slice(samples.start, samples.stop)
        known = self.identity(shard)
        columns: dict[str, Any] = {name: np.asarray(getattr(self, name)[rows]) for name in COLUMNS}
        return ShardIndex(
            keys=self.keys[shard],
            **columns,
            bytes=known["size"],
            sha256=known["sha256"],
            passed_over=self.passed_over[shard] if self.passed_over else (),
            others=self.others[shard] if self.others else (),
            class_list=self.class_lists[shard] if self.class_lists else "",
        )

    def samples_of(self, shard: int) -> range:
        """Numbers of a shard's samples."""
        is_last = shard + 1 == len(self.first)
        return range(int(self.first[shard]), len(self) if is_last else int(self.first[shard + 1]))

    def names_in(self, shard: int) -> list[str]:
        """Keys of a shard's samples, as its tar has them."""
        keys = self.keys[shard].decode("utf-8", "surrogateescape").split("\0")
        return keys[: len(self.samples_of(shard))]  # of no samples: one empty key

    def key(self, sample: int) -> str:
        """The sample's key, for people: its name in the tar up to the first dot."""
        return self.keys_of([sample])[0]

    def keys_of(self, samples: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """`key` of each of some samples; the keys of a shard, which are joined, are split once."""
        numbers = np.asarray(samples, np.int64)
        shards = self.shard_of(numbers)
        found = [""] * len(numbers)
        split, keys = -1, []
        for place in np.argsort(shards, kind="stable").tolist():
            if (shard := int(shards[place])) != split:
                split, keys = shard, self.keys[shard].split(b"\0")
            key = keys[int(numbers[place] - self.first[shard])]
            found[place] = printable(key.decode("utf-8", "backslashreplace"))
        return found

    def shard_name(self, sample: int) -> str:
        """The sample's shard, without the signature of a signed address."""
        return printable(redacted(self.shards[self.shard_of(sample)]))

    def name(self, sample: int) -> str:
        """`SHARD: key KEY`, for messages; of an image file that is no part of a shard its path."""
        shard, key = self.shard_name(sample), self.key(sample)
        return shard if shard.endswith(key) else f"{shard}: key {key}"

    def is_recorded_as(self, fingerprint: str) -> bool:
        """True where `fingerprint`, recorded by this or an earlier version, is of these samples."""
        return fingerprint in (self.fingerprint, self.former_fingerprint)

    def warnings(self) -> list[str]:
        """Lines on members that may be images or labels and are not read, and on class names."""
        held = ((shard, found) for shard, found in enumerate(self.passed_over) if found)
        found = over_all((redacted(self.shards[shard]), members) for shard, members in held)
        lines = [f"not read: {one}" for one in found]
        others = self.other_members().items()
        beside = {name: n for name, n in others if is_image(name) and name not in COMPANIONS}
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


class Fingerprint:
    """Fingerprints of a data set, from its shards in their order."""

    def __init__(self) -> None:
        self._digest, self._former = hashlib.sha256(), hashlib.sha256()

    def add(self, shard: str, index: ShardIndex) -> None:
        """Add the samples of a shard; its name is part of the former fingerprint only."""
        name = file_name(shard)
        self._former.update(f"{name} ".encode("utf-8", "surrogateescape"))
        for one in (self._digest, self._former):
            one.update(f"{len(index.offset)}\n".encode() + index.keys)
            for column in (index.offset, index.size, index.crc):
                one.update(column.tobytes())

    def hexdigest(self) -> str:
        """`Manifest.fingerprint` of the shards."""
        return self._digest.hexdigest()

    def former(self) -> str:
        """`Manifest.former_fingerprint` of the shards."""
        return self._former.hexdigest()


def checksums(hexadecimal: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Checksums [n 32] from their hexadecimal form."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, 32)


def labels_digest(manifest: Manifest) -> str:
    """sha256 over the labels, which the fingerprint does not cover."""
    digest = hashlib.sha256()
    for part in chunks(manifest.label):
        digest.update(part.tobytes())
    return digest.hexdigest()


def summary(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """Summary of a data set for people, as (name, value) pairs."""
    kinds = _occurrences(manifest.kind)
    labelled = _occurrences(manifest.label)
    del labelled[NO_LABEL]
    counts = manifest.counts()
    spread = f" of {counts.min():,} to {counts.max():,} images" if len(counts) > 1 else ""
    yield "shards", f"{len(manifest.shards):,}{spread}"
    formats = ", ".join(f"{kinds[kind]:,} {EXTENSIONS[kind]}" for kind in sorted(kinds))
    yield "images", f"{len(manifest):,}: {formats}"
    total = sum(int(part.sum(dtype=np.int64)) for part in chunks(manifest.size))
    yield "size", f"{total / 1e6:,.1f} MB of images"
    classes = f"{labelled.total():,} samples, {len(labelled):,} classes" if labelled else "none"
    yield "labels", classes
    if others := manifest.other_members():
        yield "not read", f"{kinds_of_files(others)}"
    yield "fingerprint", manifest.fingerprint[:16]


def _occurrences(column: AnyColumn) -> Counter[int]:
    """Number of occurrences of each value."""
    found = Counter[int]()
    for part in chunks(column):
        values, counts = np.unique(part, return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return found
