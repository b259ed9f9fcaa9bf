"""Does every image of a data set decode: `mae verify`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.progress import Progress, progress_bar
from mae.data.index import shard_index
from mae.data.manifest import Manifest, join
from mae.data.scan import ShardIndex, scan
from mae.data.shard_reader import ShardReader
from mae.data.shards import expand_shards
from mae.data.workers import in_workers
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.cache import ShardCache
from mae.storage.files import is_remote, redacted
from mae.storage.retry import BackgroundThreads

SAMPLES_AT_ONCE = 256
SHOWN = 10
"""bad samples that are named one by one"""
CHUNK = 1 << 20
READERS = 16
"""shards indexed at a time"""


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
    WorkerDied where a worker process is killed.
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


def verify_shards(
    patterns: Sequence[str],
    key: str = "verify",
    workers: int = 0,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
) -> Verified:
    """`verify` of the shards that `patterns` name; one that is no whole tar is bad, by itself.

    Of a whole tar of other bytes than were indexed before, the images are checked too.

    Raises UserError, naming `key`, where there are no shards or no images, else as `verify`.
    """
    shards = expand_shards(patterns, key, cache is not None and cache.allow_pipe)
    whole: dict[str, ShardIndex] = {}
    damaged: list[Bad] = []
    with BackgroundThreads(min(len(shards), READERS), "index") as background:
        waiting = [background.submit(shard_index, shard, index_dir, cache) for shard in shards]
        for shard, future in zip(shards, waiting, strict=True):
            name = redacted(shard)
            try:
                whole[shard] = future.result()
            except StorageError:
                raise
            except UserError as error:
                damaged.append(Bad(name, "", str(error).removeprefix(f"{name}: ")))
                if not is_remote(shard):
                    with suppress(UserError):  # a whole tar of other bytes: which images, then
                        whole[shard] = scan(Path(shard))
    found = Verified(0, 0, (), {}, {}, {})
    if any(len(index.offset) for index in whole.values()):
        found = verify(join(list(whole), list(whole.values())), workers, cache=cache)
    elif not damaged:
        raise UserError(f"{key}: no images in {len(shards)} shards, first {redacted(shards[0])}")
    places = {redacted(shard): place for place, shard in enumerate(shards)}
    bad = sorted((*damaged, *found.bad), key=lambda one: places[one.shard])
    return found._replace(shards=len(shards), bad=tuple(bad))


def describe_verified(verified: Verified) -> list[str]:
    """The lines that a person reads: what is bad, then the counts."""
    lines = [f"{b.shard}: {f'key {b.key}: ' if b.key else ''}{b.reason}" for b in verified.bad]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verified.formats.items())
    channels = ", ".join(f"{n:,} of {value} channels" for value, n in verified.channels.items())
    bits = ", ".join(f"{n:,} of {value} bits" for value, n in verified.bits.items())
    images = f"{verified.samples:,} image{'s' * (verified.samples != 1)}"
    whole = f"{images} in {verified.shards:,} shard{'s' * (verified.shards != 1)}"
    verdict = f"{len(verified.bad):,} bad" if verified.bad else "all good"
    return [*lines, *filter(None, (kinds, channels, bits)), f"{whole}: {verdict}"]


class _Checker:
    def __init__(self, manifest: Manifest, cache: ShardCache | None) -> None:
        self.manifest = manifest
        from mae.decoding.decode import decode_native  # torch, once the shards are indexed

        self.decode = decode_native
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
                pixels = self.decode(self.reader.read(sample), extension)
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
