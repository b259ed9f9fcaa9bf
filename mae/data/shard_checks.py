"""Checks of shards: the report of each, from its index and from decoding its images."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.files import require_regular
from mae.base.redaction import redacted
from mae.data.index import COLUMNS, indexed_shard, shard_state
from mae.data.indexing import join
from mae.data.manifest import Manifest
from mae.data.scan import scan
from mae.data.shard_index import ClassNumbers, ShardIndex, class_list_digest
from mae.data.shard_reader import ShardReader
from mae.data.task_pool import run_tasks
from mae.data.verification import ShardReport
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.background import BackgroundThreads
from mae.storage.cache import ShardCache
from mae.storage.remote import is_remote

CHUNK = 1 << 20
"""bytes read at a time for a checksum"""
AHEAD = 16
"""maximum number of shards indexed ahead"""
SAMPLES_AT_ONCE = 256
"""maximum number of samples per task"""
CLASSES = "; classes "
"""in the state of a shard: what follows is the digest of the class names of its labels"""


class ShardEntry(NamedTuple):
    """A shard to check: by its own index, or by that of a manifest which lists it."""

    shard: str
    manifest: Manifest | None = None
    number: int = 0
    """of the shard in `manifest`"""


class ShardChecks(NamedTuple):
    """Checks of shards, whose indexes are cached in `index_dir`, by `workers` processes."""

    workers: int
    index_dir: Path | None
    cache: ShardCache | None
    numbers: ClassNumbers

    def reports(
        self, entries: Sequence[ShardEntry], seen: Callable[[int], None] = lambda samples: None
    ) -> Iterator[tuple[int, ShardReport]]:
        """(place among `entries`, report) of each shard, in order of completion.

        `seen` is called with the number of samples of each finished task.  Raises StorageError
        where a shard cannot be read, WorkerDied where a worker process is killed.
        """
        shards: dict[int, _Shard] = {}

        def tasks() -> Iterator[_Task]:
            for place, opened in enumerate(self._opened(entries)):
                given = list(_tasks(place, entries[place].shard, opened.index))
                shards[place] = _Shard(opened, len(given), [])
                yield from given

        for _, result in run_tasks(_Checker(self.cache), tasks(), self.workers, _name):
            seen(result.samples)
            shard = shards[result.place]
            shard.results.append(result)
            if len(shard.results) == shard.tasks:
                yield result.place, shards.pop(result.place).report()

    def state(self, entry: ShardEntry, recorded: str) -> str:
        """State of a shard now, in the form of a `recorded` one."""
        now = shard_state(entry.shard)
        if CLASSES in recorded:
            now += CLASSES + class_list_digest(self.numbers.beside(entry.shard))
        return now

    def _opened(self, entries: Sequence[ShardEntry]) -> Iterator["_Opened"]:
        """State and index of each shard, in order, read ahead in threads."""
        with BackgroundThreads(min(len(entries), AHEAD), "index") as background:
            yield from background.in_order(self._open, entries, AHEAD)

    def _open(self, entry: ShardEntry) -> "_Opened":
        shard = entry.shard
        if entry.manifest is not None:
            return _Opened(shard_state(shard), entry.manifest.index_of(entry.number))
        try:
            index, state = indexed_shard(shard, self.index_dir, self.cache)
        except StorageError:
            raise
        except UserError as error:
            reason, index = str(error).removeprefix(f"{redacted(shard)}: "), None
            if not is_remote(shard):
                # A readable tar whose bytes differ from its index: its images are checked.
                with suppress(UserError):
                    index = self._numbered(shard, scan(Path(shard)))
            return _Opened("", index, reason)
        index = self._numbered(shard, index)
        return _Opened(_with_classes(state, index), index)

    def _numbered(self, shard: str, index: ShardIndex) -> ShardIndex:
        return self.numbers.numbered(shard, index)


def _with_classes(state: str, index: ShardIndex) -> str:
    return f"{state}{CLASSES}{index.class_list}" if state and index.class_list else state


class _Opened(NamedTuple):
    """Shard before its images are decoded."""

    state: str
    """before it was read"""
    index: ShardIndex | None
    """None: it cannot be read"""
    reason: str = ""
    """defect of the shard; "": none"""


class _Task(NamedTuple):
    place: int
    """of the shard among all"""
    shard: str
    start: int
    """number of the shard's samples before these"""
    index: ShardIndex | None
    """rows of these samples; None: the shard cannot be read"""


class _TaskResult(NamedTuple):
    place: int
    samples: int
    bad: list[tuple[int, str, str]]
    """sample (-1: the shard), key, reason"""
    kinds: Counter[tuple[str, int, int]]
    """number of good samples per (extension, channels, bits)"""


class _Shard(NamedTuple):
    """Shard whose tasks are being done."""

    opened: _Opened
    tasks: int
    results: list[_TaskResult]

    def report(self) -> ShardReport:
        """Sum of the results of all tasks."""
        state, index, reason = self.opened
        found = sorted(one for result in self.results for one in result.bad)
        of_shard = [reason] * bool(reason) + [why for sample, _, why in found if sample < 0]
        bad = [("", why, 0) for why in of_shard]
        if index is not None:
            bad += [("", f"not read: {one}", one.count) for one in index.passed_over]
        bad += [(key, why, 0) for sample, key, why in found if sample >= 0]
        kinds = Counter[tuple[str, int, int]]()
        for result in self.results:
            kinds += result.kinds
        return ShardReport(
            state="" if of_shard else state,
            samples=len(index.offset) if index is not None else 0,
            bad=bad,
            kinds=[(*kind, count) for kind, count in sorted(kinds.items())],
            others=index.others if index is not None else (),
            is_empty=index is not None and not len(index.offset),
        )


def _tasks(place: int, shard: str, index: ShardIndex | None) -> Iterator[_Task]:
    if index is None:
        yield _Task(place, shard, 0, None)
        return
    keys = index.keys.split(b"\0")
    for start in range(0, max(len(index.offset), 1), SAMPLES_AT_ONCE):
        rows = slice(start, start + SAMPLES_AT_ONCE)
        columns: dict[str, Any] = {name: getattr(index, name)[rows] for name in COLUMNS}
        own = index._replace(keys=b"\0".join(keys[rows]), passed_over=(), others=(), **columns)
        yield _Task(place, shard, start, own)


def _name(task: _Task) -> str:
    has_samples = task.index is not None and len(task.index.offset)
    if task.index is None or not has_samples:
        return redacted(task.shard)
    return join([task.shard], [task.index]).name(0)


class _Checker:
    def __init__(self, cache: ShardCache | None) -> None:
        from mae.decoding.decode import decode_native  # imports torch

        self.decode, self.cache = decode_native, cache

    def __call__(self, task: _Task) -> _TaskResult:
        bad: list[tuple[int, str, str]] = []
        kinds: Counter[tuple[str, int, int]] = Counter()
        if task.index is None:
            return _TaskResult(task.place, 0, bad, kinds)
        if task.start == 0 and (defect := _shard_defect(task.shard, task.index)):
            bad.append((-1, "", defect))
        manifest = join([task.shard], [task.index])
        reader = ShardReader(manifest, self.cache)
        for sample in range(len(manifest)):
            extension = EXTENSIONS[manifest.kind[sample]]
            try:
                pixels = self.decode(reader.read(sample), extension)
                kinds[extension, len(pixels), 8 * pixels.element_size()] += 1
            except BadImage as error:
                bad.append((task.start + sample, manifest.key(sample), str(error)))
            except SampleError as error:
                reason = str(error).removeprefix(f"{manifest.name(sample)}: ")
                bad.append((task.start + sample, manifest.key(sample), reason))
        return _TaskResult(task.place, len(manifest), bad, kinds)


def _shard_defect(shard: str, index: ShardIndex) -> str:
    """Defect of the bytes of a local shard, if any; the cache checks a remote one it fetches."""
    if is_remote(shard):
        return ""
    digest = hashlib.sha256()
    try:
        require_regular(Path(shard))
    except UserError as error:
        raise StorageError(str(error)) from None
    try:
        with Path(shard).open("rb") as file:
            while part := file.read(CHUNK):
                digest.update(part)
    except OSError as error:
        raise StorageError(f"{shard}: cannot be read: {error.strerror}") from None
    return "" if digest.hexdigest() == index.sha256 else "not the bytes that were indexed (sha256)"
