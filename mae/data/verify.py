"""Verification of a data set for `mae verify`, divided among processes by shard."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.base.progress import Progress, no_progress
from mae.base.redaction import redacted
from mae.data.divided_shards import Log, digest_of_shards, divide_shards, no_log, parts_place
from mae.data.manifest import Manifest, ManifestSource
from mae.data.manifest_file import is_manifest, map_manifest, open_manifest
from mae.data.shard_checks import ShardChecks, ShardEntry
from mae.data.shard_index import ClassNumbers
from mae.data.shards import expand_shards, refuse_repeated
from mae.data.verification import (
    ShardReport,
    Verification,
    add_reports,
    pack_reports,
    unpack_reports,
    write_verification,
)
from mae.storage.cache import ShardCache

FORMAT = "verify 1"
"""of the parts; another one where a verification finds something else than before"""


def verify(
    manifest: Manifest,
    workers: int = 0,
    progress: Progress = no_progress,
    cache: ShardCache | None = None,
) -> Verification:
    """Decode every sample with its own channels and bits, and check every shard's sha256.

    The result is the same for any number of `workers` (0: this process).  `progress` is called
    with the number of checked and of all samples.  Raises StorageError where a shard cannot be
    read, and WorkerDied where a worker process is killed.
    """
    entries = [ShardEntry(shard, manifest, number) for number, shard in enumerate(manifest.shards)]
    done = 0

    def seen(samples: int) -> None:
        nonlocal done
        done += samples
        progress(done, len(manifest))

    reports = dict(ShardChecks(workers, None, cache, ClassNumbers()).reports(entries, seen))
    return add_reports(manifest.shards, (reports[number] for number in range(len(entries))))


def verify_shards(
    patterns: Sequence[str],
    key: str = "verify",
    workers: int = 0,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    progress: Progress = no_progress,
    *,
    seen: Callable[[int], None] = lambda samples: None,
    out: Path | None = None,
    portion: Portion = ALONE,
    log: Log = no_log,
) -> Verification:
    """`verify` of the shards that `patterns` name; a damaged tar is a defect of its shard.

    The shards of a manifest file are compared with it.  The images of a readable tar whose bytes
    differ from its index are checked, too.  `progress` is called with numbers of shards, `seen`
    with the number of images that this process has just checked.

    Each process does its `portion`; the first one returns the result, and writes it to `out` as
    JSON, if given; the others leave with PartDone.  An interrupted call goes on with the finished
    parts, beside `out` or in the folder of the indexes; shards that have changed are done again.

    Raises UserError, naming `key`, where there are no shards or no images, else as `verify`.
    """

    def listed() -> tuple[tuple[str, ...], dict[str, ManifestSource]]:
        found = expand_shards(patterns, key, cache is not None and cache.allow_pipe)
        manifests = {
            one: open_manifest(one, index_dir, is_checked=True) for one in found if is_manifest(one)
        }
        if manifests:
            refuse_repeated([entry.shard for entry in _entries(found, manifests)], key)
        return found, {one: m.source for one, m in manifests.items() if m.source is not None}

    found, sources = portion.from_first(listed)
    entries = _entries(found, {one: _mapped(source, index_dir) for one, source in sources.items()})
    checks = ShardChecks(workers, index_dir, cache, ClassNumbers())

    def make(parts: Sequence[range]) -> Iterator[tuple[int, bytes]]:
        own = [entries[number] for part in parts for number in part]
        part_of = [place for place, part in enumerate(parts) for _ in part]
        waiting: list[dict[int, ShardReport]] = [{} for _ in parts]
        for number, report in checks.reports(own, seen):
            place = part_of[number]
            waiting[place][number] = report
            if len(waiting[place]) == len(parts[place]):
                yield place, pack_reports([one for _, one in sorted(waiting[place].items())])
                waiting[place].clear()

    result = None
    with (
        nullcontext(out) if out else parts_place("verify", found, index_dir, portion, log) as name,
        divided_work(name, f"{FORMAT} {_digest(found, entries)}", portion, log) as work,
    ):
        parts = divide_shards(
            work,
            len(entries),
            make,
            lambda part: [report.state for report in unpack_reports(part)],
            lambda number, state: checks.state(entries[number], state),
            progress,
        )
        if portion.joins:
            reports = (report for part in parts for report in unpack_reports(part))
            result = add_reports((entry.shard for entry in entries), reports)
            if out and (result.samples or result.bad):
                write_verification(result, out)
    portion.leave_to_first()
    assert result is not None
    if not (result.samples or result.bad):
        first = redacted(entries[0].shard if entries else found[0])
        raise UserError(f"{key}: no images in {len(entries)} shards, first {first}")
    return result


def _mapped(source: ManifestSource, index_dir: Path | None) -> Manifest:
    """The manifest that the first process has opened, from its copy where it is on this machine."""
    if source.file.exists():
        return map_manifest(source)
    return open_manifest(source.location, index_dir)


def _entries(found: Sequence[str], manifests: Mapping[str, Manifest]) -> list[ShardEntry]:
    """Shards among `found`, and those of its manifest files."""
    entries = []
    for location in found:
        if (manifest := manifests.get(location)) is None:
            entries.append(ShardEntry(location))
        else:
            listed = enumerate(manifest.shards)
            entries += [ShardEntry(shard, manifest, number) for number, shard in listed]
    return entries


def _digest(found: Sequence[str], entries: Sequence[ShardEntry]) -> str:
    """Digest of all that is verified, and of what manifest files say of it."""
    manifests = {id(one.manifest): one.manifest for one in entries if one.manifest is not None}
    said = [
        hashlib.sha256(one.sha256.tobytes() + one.shard_bytes.tobytes()).hexdigest()
        + repr((one.fingerprint, one.passed_over, one.others))
        for one in manifests.values()
    ]
    return digest_of_shards([*found, *(entry.shard for entry in entries)], *said)
