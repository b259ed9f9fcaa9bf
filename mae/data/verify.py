"""Does every image of a data set decode: `mae verify`."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mae.data.manifest import Manifest
from mae.data.storage import ShardReader
from mae.data.workers import Progress, in_workers, progress_bar
from mae.decoding.decode import decode_native
from mae.decoding.formats import EXTENSIONS
from mae.decoding.pillow import BadImage
from mae.errors import SampleError, StorageError
from mae.remote.cache import ShardCache
from mae.remote.files import is_remote, redacted

SAMPLES_AT_ONCE = 256
SHOWN = 100
"""bad samples that are named one by one"""
CHUNK = 1 << 20


class Bad(NamedTuple):
    """A sample, or (without a key) a whole shard, that is not as it should be."""

    shard: str
    key: str
    reason: str


class Verified(NamedTuple):
    """What `verify` found."""

    samples: int
    shards: int
    bad: tuple[Bad, ...]
    """by shard in the manifest's order, then in tar order; of a shard itself first"""
    formats: dict[str, int]
    """good samples by extension"""
    channels: dict[int, int]
    bits: dict[int, int]


class _Task(NamedTuple):
    shard: int
    samples: range


class _Found(NamedTuple):
    bad: list[tuple[int, str]]
    kinds: Counter[tuple[str, int, int]]


def verify(
    manifest: Manifest,
    workers: int = 0,
    progress: Progress | None = None,
    cache: ShardCache | None = None,
) -> Verified:
    """Decode every sample in its own channels and depth, and check every shard's sha256.

    The same result for any number of `workers` (0: this process).  `progress` hears of samples
    (None: a bar, if stderr is a terminal).  Raises StorageError where bytes cannot be had, and
    UserError where a worker dies.
    """
    tasks = [
        _Task(shard, range(start, min(start + SAMPLES_AT_ONCE, first + count)))
        for shard, (first, count) in enumerate(
            zip(manifest.first.tolist(), manifest.counts().tolist(), strict=True)
        )
        for start in range(first, first + count, SAMPLES_AT_ONCE)
    ]
    found: dict[int, _Found] = {}
    done = 0
    with progress_bar("images") as bar:
        show = progress or bar
        checker = _Checker(manifest, cache)

        def name(task: _Task) -> str:
            return manifest.name(task.samples.start)

        for number, result in in_workers(checker, tasks, workers, name):
            found[number] = result
            done += len(tasks[number].samples)
            show(done, len(manifest))
    bad: list[Bad] = []
    kinds: Counter[tuple[str, int, int]] = Counter()
    for number in range(len(tasks)):
        kinds += found[number].kinds
        for sample, reason in found[number].bad:
            shard = redacted(manifest.shards[tasks[number].shard])
            bad.append(Bad(shard, manifest.key(sample) if sample >= 0 else "", reason))
    return Verified(
        samples=len(manifest),
        shards=len(manifest.shards),
        bad=tuple(bad),
        formats=_count(kinds, 0),
        channels=_count(kinds, 1),
        bits=_count(kinds, 2),
    )


def describe_verified(verified: Verified) -> list[str]:
    """The lines that a person reads: what is bad, then the counts."""
    lines = [f"{b.shard}: {f'key {b.key}: ' if b.key else ''}{b.reason}" for b in verified.bad]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verified.formats.items())
    channels = ", ".join(f"{n:,} of {value} channels" for value, n in verified.channels.items())
    bits = ", ".join(f"{n:,} of {value} bits" for value, n in verified.bits.items())
    whole = f"{verified.samples:,} images in {verified.shards:,} shards"
    verdict = f"{len(verified.bad):,} bad" if verified.bad else "all good"
    return [*lines, *filter(None, (kinds, channels, bits)), f"{whole}: {verdict}"]


class _Checker:
    def __init__(self, manifest: Manifest, cache: ShardCache | None) -> None:
        self.manifest = manifest
        self.reader = ShardReader(manifest, cache)
        self.cache = cache

    def __call__(self, task: _Task) -> _Found:
        manifest = self.manifest
        bad: list[tuple[int, str]] = []
        kinds: Counter[tuple[str, int, int]] = Counter()
        if task.samples.start == manifest.first[task.shard]:
            bad += [(-1, reason) for reason in self._check_shard(task.shard)]
        for sample in task.samples:
            extension = EXTENSIONS[manifest.kind[sample]]
            try:
                pixels = decode_native(self.reader.read(sample), extension)
                kinds[extension, len(pixels), 8 * pixels.element_size()] += 1
            except BadImage as error:
                bad.append((sample, str(error)))
            except SampleError as error:
                bad.append((sample, str(error).removeprefix(f"{manifest.name(sample)}: ")))
        return _Found(bad, kinds)

    def _check_shard(self, shard: int) -> list[str]:
        """A remote shard's copy is checked by the cache, when it is fetched."""
        location = self.manifest.shards[shard]
        if is_remote(location):
            return []
        digest = hashlib.sha256()
        try:
            with Path(location).open("rb") as file:
                while part := file.read(CHUNK):
                    digest.update(part)
        except OSError as error:
            raise StorageError(f"{location}: cannot be read: {error.strerror}") from None
        same = digest.hexdigest() == self.manifest.sha256[shard]
        return [] if same else ["not the bytes that were indexed (sha256)"]


def _count(kinds: Counter[tuple], column: int) -> dict:
    counts: Counter = Counter()
    for kind, number in kinds.items():
        counts[kind[column]] += number
    return dict(sorted(counts.items()))
