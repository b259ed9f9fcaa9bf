"""Verification of a data set for `mae verify`: decode every image, check every shard's sha256."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.progress import Progress, progress_bar
from mae.base.redaction import redacted
from mae.data.index import shard_index
from mae.data.manifest import Manifest, join
from mae.data.passed_over import kinds_of_files
from mae.data.scan import ShardIndex, scan
from mae.data.shard_reader import ShardReader
from mae.data.shards import expand_shards
from mae.data.task_pool import run_tasks
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.cache import ShardCache
from mae.storage.remote import is_remote
from mae.storage.retry import BackgroundThreads

CHUNK = 1 << 20
"""bytes read at a time for a checksum"""
READERS = 16
"""maximum number of shards indexed at a time"""
SAMPLES_AT_ONCE = 256
"""maximum number of samples per task"""
SHOWN = 10
"""maximum number of defects printed one by one"""


class Defect(NamedTuple):
    """A bad sample, or (with an empty key) a bad shard."""

    shard: str
    key: str
    reason: str
    unread: int = 0
    """number of the shard's members that are not read for this reason"""


class Verification(NamedTuple):
    """Result of `verify`: counts and defects."""

    samples: int
    shards: int
    bad: tuple[Defect, ...]
    """in the manifest's order of shards: the shard's own defect, then samples in tar order"""
    formats: dict[str, int]
    """number of good samples per extension"""
    channels: dict[int, int]
    """number of good samples per number of channels"""
    bits: dict[int, int]
    """number of good samples per bits of a channel"""
    others: tuple[tuple[str, int], ...] = ()
    """(extension, number) of members that are no samples and were not decoded"""
    empty: int = 0
    """number of shards without images"""


class _Task(NamedTuple):
    shard: int
    samples: range


class _TaskResult(NamedTuple):
    bad: list[tuple[int, str]]
    """sample (-1: the shard) and defect"""
    kinds: Counter[tuple[str, int, int]]
    """number of good samples per (extension, channels, bits)"""


def verify(
    manifest: Manifest,
    workers: int = 0,
    progress: Progress | None = None,
    cache: ShardCache | None = None,
) -> Verification:
    """Decode every sample with its own channels and bits, and check every shard's sha256.

    The result is the same for any number of `workers` (0: this process).  `progress` is called
    with the number of checked and of all samples (None: a bar, if stderr is a terminal).  Raises
    StorageError where a shard cannot be read, and WorkerDied where a worker process is killed.
    """
    tasks = [
        _Task(shard, range(start, min(start + SAMPLES_AT_ONCE, first + count)))
        for shard, (first, count) in enumerate(
            zip(manifest.first.tolist(), manifest.counts().tolist(), strict=True)
        )
        for start in range(first, first + max(count, 1), SAMPLES_AT_ONCE)
    ]
    results: dict[int, _TaskResult] = {}
    done = 0
    with progress_bar("images") as bar:
        show = progress or bar
        checker = _Checker(manifest, cache)

        def name(task: _Task) -> str:
            return manifest.name(task.samples[0]) if task.samples else manifest.shards[task.shard]

        for number, result in run_tasks(checker, tasks, workers, name):
            results[number] = result
            done += len(tasks[number].samples)
            show(done, len(manifest))
    bad: list[Defect] = []
    kinds: Counter[tuple[str, int, int]] = Counter()
    for number in range(len(tasks)):
        kinds += results[number].kinds
        for sample, reason in results[number].bad:
            shard = redacted(manifest.shards[tasks[number].shard])
            bad.append(Defect(shard, manifest.key(sample) if sample >= 0 else "", reason))
    for shard, found in zip(manifest.shards, manifest.passed_over, strict=True):
        bad += [Defect(redacted(shard), "", f"not read: {one}", one.count) for one in found]
    places = {redacted(shard): place for place, shard in enumerate(manifest.shards)}
    bad.sort(key=lambda one: (places[one.shard], one.key != ""))
    return Verification(
        samples=len(manifest),
        shards=len(manifest.shards),
        bad=tuple(bad),
        formats=_count(kinds, 0),
        channels=_count(kinds, 1),
        bits=_count(kinds, 2),
        others=tuple(sorted(manifest.other_members().items())),
        empty=int((manifest.counts() == 0).sum()),
    )


def verify_shards(
    patterns: Sequence[str],
    key: str = "verify",
    workers: int = 0,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
) -> Verification:
    """`verify` of the shards that `patterns` name; a damaged tar is a defect of its shard.

    The images of a readable tar whose bytes differ from its index are checked, too.

    Raises UserError, naming `key`, where there are no shards or no images, else as `verify`.
    """
    shards = expand_shards(patterns, key, cache is not None and cache.allow_pipe)
    whole: dict[str, ShardIndex] = {}
    damaged: list[Defect] = []
    with BackgroundThreads(min(len(shards), READERS), "index") as background:
        waiting = [background.submit(shard_index, shard, index_dir, cache) for shard in shards]
        for shard, future in zip(shards, waiting, strict=True):
            name = redacted(shard)
            try:
                whole[shard] = future.result()
            except StorageError:
                raise
            except UserError as error:
                damaged.append(Defect(name, "", str(error).removeprefix(f"{name}: ")))
                if not is_remote(shard):
                    # A readable tar whose bytes differ from its index: its images are checked.
                    with suppress(UserError):
                        whole[shard] = scan(Path(shard))
    result = Verification(samples=0, shards=0, bad=(), formats={}, channels={}, bits={})
    if whole and (damaged or any(len(index.offset) for index in whole.values())):
        result = verify(join(list(whole), list(whole.values())), workers, cache=cache)
    elif not damaged:
        raise UserError(f"{key}: no images in {len(shards)} shards, first {redacted(shards[0])}")
    places = {redacted(shard): place for place, shard in enumerate(shards)}
    bad = sorted((*damaged, *result.bad), key=lambda one: places[one.shard])
    return result._replace(shards=len(shards), bad=tuple(bad))


def describe_verification(verification: Verification) -> list[str]:
    """Printed lines: the defects, then the counts."""
    lines = [f"{b.shard}: {f'key {b.key}: ' if b.key else ''}{b.reason}" for b in verification.bad]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verification.formats.items())
    channels = ", ".join(f"{n:,} of {value} channels" for value, n in verification.channels.items())
    bits = ", ".join(f"{n:,} of {value} bits" for value, n in verification.bits.items())
    images = f"{verification.samples:,} image{'s' * (verification.samples != 1)}"
    whole = f"{images} in {verification.shards:,} shard{'s' * (verification.shards != 1)}"
    unread = sum(one.unread for one in verification.bad)
    bad = sum(not one.unread for one in verification.bad)
    faults = [f"{bad:,} bad"] * bool(bad) + [
        f"{unread:,} more file{'s' * (unread != 1)} not read"
    ] * bool(unread)
    result = ", ".join(faults) or "all good"
    others = kinds_of_files(dict(verification.others))
    not_decoded = f"not decoded, no samples of their own: {others}" if others else ""
    empty = verification.empty
    without = f"{empty:,} shard{'s' * (empty != 1)} without images" if empty else ""
    about = filter(None, (kinds, channels, bits, not_decoded, without))
    return [*lines, *about, f"{whole}: {result}"]


class _Checker:
    def __init__(self, manifest: Manifest, cache: ShardCache | None) -> None:
        self.manifest = manifest
        from mae.decoding.decode import (
            decode_native,  # imports torch: only after the shards are indexed
        )

        self.decode = decode_native
        self.reader = ShardReader(manifest, cache)
        self.cache = cache

    def __call__(self, task: _Task) -> _TaskResult:
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
        return _TaskResult(bad, kinds)

    def _check_shard(self, shard: int) -> list[str]:
        """Defects of a local shard; a remote one is checked by the cache when it is fetched."""
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
