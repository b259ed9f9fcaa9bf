"""Manifest of shards, from their indexes or from manifest files."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae.base.device import local_processes, usable_cores
from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.base.progress import Progress, no_progress
from mae.base.redaction import redacted
from mae.data.divided_shards import (
    Log,
    digest_of_shards,
    divide_shards,
    no_log,
    parts_place,
)
from mae.data.index import COLUMNS, FORMAT, IndexedShard, indexed_shard, shard_state
from mae.data.index_parts import pack_indexes, unpack_indexes
from mae.data.joined_manifests import concatenate
from mae.data.manifest import Fingerprint, Manifest, checksums
from mae.data.manifest_file import is_manifest, open_manifest
from mae.data.manifest_writer import new_manifest, refuse_names
from mae.data.shard_index import ShardIndex, with_class_numbers
from mae.data.shards import expand_shards, refuse_repeated
from mae.storage.background import BackgroundThreads
from mae.storage.cache import ShardCache

REMOTE_READERS = 16
"""minimum number of shards indexed at a time, since servers answer slowly"""


def build_manifest(
    patterns: Sequence[str],
    key: str = "data.train",
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Index the shards that `patterns` name, from cached indexes where those are up to date.

    Manifest files among the patterns stand for their shards, which are not looked at.  Remote
    shards are read through `cache`.  Raises UserError, naming `key` or the shard, where no shard is
    found, a shard is not a tar or damaged, a manifest is, or there are no images; StorageError
    where a remote shard or manifest cannot be fetched.
    """
    found = expand_shards(patterns, key, cache is not None and cache.allow_pipe)
    indexed = read_indexes(_to_index(found), index_dir, cache, progress)
    return _in_memory(found, (index for index, _ in indexed), key, index_dir)


def index_shards(
    patterns: Sequence[str],
    key: str,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Progress = no_progress,
    *,
    portion: Portion = ALONE,
    threads: int | None = None,
    log: Log = no_log,
) -> Manifest:
    """Index shards as `build_manifest`, each process its `portion`; the first one's result.

    The others leave with PartDone.  Raises as `build_manifest`.
    """
    found = portion.from_first(lambda: _listed(patterns, key, cache, index_dir))
    manifest = None
    with (
        parts_place("index", found, index_dir, portion, log) as name,
        _divided(found, name, index_dir, cache, progress, portion, threads, log) as divided,
    ):
        if portion.joins:
            manifest = _in_memory(found, divided.indexes, key, index_dir)
    portion.leave_to_first()
    assert manifest is not None
    return manifest


def write_index(
    patterns: Sequence[str],
    out: Path,
    key: str,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Progress = no_progress,
    *,
    portion: Portion = ALONE,
    threads: int | None = None,
    log: Log = no_log,
) -> Manifest:
    """Index shards as `index_shards`, into a manifest file, with one index in memory at a time.

    An interrupted call goes on with the parts beside `out`.  Raises as `build_manifest`, and
    UserError where `out` cannot be written, or cannot list a shard.
    """
    found = portion.from_first(lambda: _listed(patterns, key, cache, index_dir))
    refuse_names(out, _to_index(found))
    with _divided(found, out, index_dir, cache, progress, portion, threads, log) as divided:
        if portion.joins:
            _into_file(found, divided, out, key, index_dir)
    portion.leave_to_first()
    return open_manifest(str(out), index_dir)


def _listed(
    patterns: Sequence[str], key: str, cache: ShardCache | None, index_dir: Path | None
) -> tuple[str, ...]:
    """Shards and manifest files that `patterns` name.  UserError where they hold a shard twice."""
    found = expand_shards(patterns, key, cache is not None and cache.allow_pipe)
    if len(found) > 1 and any(map(is_manifest, found)):
        held = [
            open_manifest(one, index_dir).shards if is_manifest(one) else [one] for one in found
        ]
        refuse_repeated([shard for shards in held for shard in shards], key)
    return found


def _to_index(found: Sequence[str]) -> list[str]:
    """The shards, without manifest files."""
    return [location for location in found if not is_manifest(location)]


class _Divided(NamedTuple):
    indexes: Iterator[ShardIndex]
    """of all shards, in order"""
    folder: Path
    """for temporary files"""


@contextmanager
def _divided(
    found: Sequence[str],
    out: Path,
    index_dir: Path | None,
    cache: ShardCache | None,
    progress: Progress,
    portion: Portion,
    threads: int | None,
    log: Log,
) -> Generator[_Divided]:
    """Yield the indexes of all shards, in order, once all processes have done their parts."""
    shards = _to_index(found)

    def make(parts: Sequence[range]) -> Iterator[tuple[int, bytes]]:
        own = [shards[number] for part in parts for number in part]
        indexed = read_indexes(own, index_dir, cache, threads=threads)
        for place, part in enumerate(parts):
            yield place, pack_indexes([next(indexed) for _ in part])

    plan = f"index {FORMAT} {len(shards)} {digest_of_shards(found)}"
    with divided_work(out, plan, portion, log) as work:
        results = divide_shards(
            work,
            len(shards),
            make,
            lambda part: (state for _, state in unpack_indexes(part)),
            lambda number, _: shard_state(shards[number]),
            progress,
        )
        indexes = (index for part in results for index, _ in unpack_indexes(part))
        yield _Divided(indexes, work.folder)


def _in_memory(
    found: Sequence[str], indexes: Iterator[ShardIndex], key: str, index_dir: Path | None
) -> Manifest:
    """Manifest of the manifest files among `found`, and of the indexes of the others."""
    parts = []
    for in_file, locations in groupby(found, is_manifest):
        if in_file:
            parts += [open_manifest(location, index_dir) for location in locations]
        else:
            shards = list(locations)
            parts.append(join(shards, list(islice(indexes, len(shards)))))
    if len(parts) > 1:
        refuse_repeated([shard for part in parts for shard in part.shards], key)
    manifest = concatenate(parts)
    if not len(manifest):
        first = redacted(manifest.shards[0]) if len(manifest.shards) else found[0]
        raise UserError(f"{key}: no images in {len(manifest.shards)} shards, first {first}")
    return manifest


def _into_file(
    found: Sequence[str], divided: _Divided, out: Path, key: str, index_dir: Path | None
) -> None:
    """Write the manifest as `_in_memory`, shard by shard."""
    with new_manifest(out, divided.folder) as writer:
        for in_file, locations in groupby(found, is_manifest):
            if in_file:
                for one in (open_manifest(location, index_dir, True) for location in locations):
                    for number, shard in enumerate(one.shards):
                        writer.add(shard, one.index_of(number))
            else:
                shards = list(locations)
                own = with_class_numbers(shards, islice(divided.indexes, len(shards)))
                for shard, index in zip(shards, own, strict=True):
                    writer.add(shard, index)
        if not writer.samples:
            raise UserError(f"{key}: no images in the shards, first {redacted(found[0])}")


def join(shards: Sequence[str], indexes: Sequence[ShardIndex]) -> Manifest:
    """The manifest of one data set, from the indexes of its shards.

    Labels that are names become numbers by the classes.txt beside their shard.
    """
    indexes = list(with_class_numbers(shards, indexes))
    fingerprint = Fingerprint()
    for shard, index in zip(shards, indexes, strict=True):
        fingerprint.add(shard, index)
    counts = [len(index.offset) for index in indexes]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(index, name) for index in indexes]) for name in COLUMNS
    }
    return Manifest(
        shards=tuple(shards),
        keys=tuple(index.keys for index in indexes),
        first=np.cumsum([0, *counts])[:-1],
        shard_bytes=np.array([index.bytes for index in indexes], np.int64),
        sha256=checksums([index.sha256 for index in indexes]),
        fingerprint=fingerprint.hexdigest(),
        datasets=(len(shards),),
        former_fingerprint=fingerprint.former(),
        passed_over=tuple(index.passed_over for index in indexes),
        others=tuple(index.others for index in indexes),
        class_lists=tuple(index.class_list for index in indexes),
        **columns,
    )


def read_indexes(
    shards: Sequence[str],
    index_dir: Path | None,
    cache: ShardCache | None,
    progress: Progress = no_progress,
    threads: int | None = None,
) -> Iterator[IndexedShard]:
    """Indexes of shards, in order, read ahead in `threads`.

    By default one for each core and at least REMOTE_READERS, divided among the processes that a
    launcher has started on this machine.
    """
    # Checksums and waits for servers both release the interpreter lock.
    if threads is None:
        threads = -(-max(usable_cores(), REMOTE_READERS) // local_processes())
    threads = min(len(shards), threads)
    with BackgroundThreads(threads, "index") as background:
        read = partial(indexed_shard, index_dir=index_dir, cache=cache)
        for done, indexed in enumerate(background.in_order(read, shards, 4 * threads), 1):
            progress(done, len(shards))
            yield indexed
