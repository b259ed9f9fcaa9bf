"""Manifests of several data sets as one, and of a part of one."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.data.columns import Joined, join_columns
from mae.data.index import COLUMNS
from mae.data.manifest import Fingerprint, Manifest


def merge(manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of several data sets, one after the other."""
    if len(manifests) == 1:
        return manifests[0]
    fingerprints = " ".join(one.fingerprint for one in manifests)
    former = " ".join(one.former_fingerprint for one in manifests)
    return _joined(
        manifests,
        datasets=tuple(len(one.shards) for one in manifests),
        fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        former_fingerprint=hashlib.sha256(former.encode()).hexdigest(),
    )


def concatenate(manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of one data set whose shards are those of several, one after the other."""
    if len(manifests) == 1:
        return manifests[0]
    fingerprint = Fingerprint()
    for one in manifests:
        for number, shard in enumerate(one.shards):
            fingerprint.add(shard, one.index_of(number))
    return _joined(
        manifests,
        datasets=(sum(len(one.shards) for one in manifests),),
        fingerprint=fingerprint.hexdigest(),
        former_fingerprint=fingerprint.former(),
    )


def _joined(manifests: Sequence[Manifest], **own: Any) -> Manifest:
    samples_before = np.cumsum([0, *map(len, manifests)])
    columns: dict[str, Any] = {
        name: join_columns([getattr(one, name) for one in manifests]) for name in COLUMNS
    }
    return Manifest(
        shards=Joined([one.shards for one in manifests]),
        keys=Joined([one.keys for one in manifests]),
        first=np.concatenate(
            [one.first + start for one, start in zip(manifests, samples_before, strict=False)]
        ),
        shard_bytes=np.concatenate([one.shard_bytes for one in manifests]),
        sha256=np.concatenate([one.sha256 for one in manifests]),
        passed_over=tuple(found for one in manifests for found in one.passed_over),
        others=tuple(found for one in manifests for found in one.others),
        class_lists=tuple(
            found for one in manifests for found in one.class_lists or [""] * len(one.shards)
        ),
        **columns,
        **own,
    )


def select(manifest: Manifest, samples: npt.NDArray[np.int64]) -> Manifest:
    """The manifest of a subset of samples, given by their numbers, shard by shard."""
    if len(samples) == len(manifest):
        return manifest
    counts = np.bincount(manifest.shard_of(samples), minlength=len(manifest.shards))
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
        fingerprint=fingerprints[0],
        datasets=manifest.datasets,
        former_fingerprint=fingerprints[1],
        passed_over=manifest.passed_over,
        others=manifest.others,
        class_lists=manifest.class_lists,
        class_names=manifest.class_names,
        class_note=manifest.class_note,
        second=None if manifest.second is None else select(manifest.second, samples),
        **{name: getattr(manifest, name)[samples] for name in COLUMNS},
    )
