"""Packing of images into WebDataset shards: `mae pack`.

List the images, assign them to shards, write the shards in worker processes, report.
A shard depends only on the listing, the options and its own number, so that any number of
processes writes the same bytes, and an interrupted command resumes where it stopped.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import SampleError, UserError
from mae.base.files import discard
from mae.base.printable import printable
from mae.base.progress import Progress, progress_bar
from mae.base.redaction import without_secrets
from mae.data.class_names import ENCODING, escaped
from mae.data.task_pool import run_tasks
from mae.decoding.pixels import BadImage
from mae.pack.duplicates import DIGEST_WORDS, content_digest, exact_duplicates
from mae.pack.listing import (
    UNKNOWN_SIZE,
    Listing,
    PackRequest,
)
from mae.pack.shard_plan import (
    PackOptions,
    ShardReport,
    ShardTask,
    delete_report,
    is_finished,
    load_report,
    plan_shards,
    sample_key,
)
from mae.pack.sources import list_sources
from mae.pack.summary import PackReport, summarize, to_json
from mae.pack.unfinished import PLAN, start_or_resume, unfinished_folder, write_atomically

if TYPE_CHECKING:
    from mae.pack.shard_writer import ShardWriter


PLAN_VERSION = 2
"""changes whenever the same listing and options give other shards"""
FILES_AT_ONCE = 256
"""files that a worker process compares per task"""


def pack(
    request: PackRequest,
    out: Path,
    options: PackOptions | None = None,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> PackReport:
    """Pack images into shuffled shards `out`/train-000000.tar … (and val-…, test-…).

    Image files are stored unchanged unless `options` resize or re-encode them.  Beside the shards
    lie `classes.txt`, where classes have names, `sources.tsv`, the file of each key, and
    `pack.json`, the report.  The same images and options give the same bytes with any number of
    `workers`.  `out` appears only when complete; until then `.OUT.part` holds the finished shards,
    and the same call resumes from them.

    Args:
        request: sources to pack.
        out: new or empty folder.
        options: shard size, validation split, encoding; None: the defaults.
        workers: number of worker processes; 0: this process does the work.
        progress: called with the numbers of images done and in all; None: a bar on a terminal.
        log: called with lines about resumed or kept work.

    Raises UserError where nothing can be packed or `out` is not empty, WorkerDied where a worker
    process is killed, RunFailed for an internal error, naming the file.
    """
    options = options or PackOptions()
    with unfinished_folder(out, log) as part:
        listing = list_sources(request)
        if options.resize and any(source.mask is not None for source in listing.sources):
            raise UserError("--resize: images with --masks keep their size: resize both before")
        plan_shards(listing, options, np.array([], np.int64))  # raises before earlier work changes
        resumed = _start_or_resume(part, listing, options, log)
        dropped = np.zeros((0, 2), np.int64)
        if options.drop_duplicates:
            dropped = _find_duplicates(listing, part / "copies.npy", workers)
        tasks = plan_shards(listing, options, dropped[:, 0])
        if resumed and (done := sum(is_finished(part, task) for task in tasks)):
            log(f"{out}: resuming, {done:,} of {len(tasks):,} shards are done")
        from mae.pack.shard_writer import ShardWriter  # imports torch, needed from here on

        _write_shards(ShardWriter(listing, options, part), tasks, workers, progress)
        reports = [load_report(part, task) for task in tasks]
        _require_images(part, listing, tasks, reports)
        packed = summarize(str(out), listing, dropped, tasks, reports)
        _write_tables(part, listing, tasks, reports, packed)
        for task in tasks:
            delete_report(part, task)
        (part / "copies.npy").unlink(missing_ok=True)
    return packed


def _start_or_resume(
    part: Path, listing: Listing, options: PackOptions, log: Callable[[str], None]
) -> bool:
    """Record the plan in `part`; True where an earlier attempt had the same one."""
    plan = json.dumps([PLAN_VERSION, listing.fingerprint, listing.splits, options._asdict()])
    before = (part / PLAN).exists()
    same = start_or_resume(part, hashlib.sha256(plan.encode()).hexdigest())
    if before and not same:
        log(f"{part}: holds shards of other images or options: starting over")
    return same


def _write_shards(
    writer: "ShardWriter", tasks: Sequence[ShardTask], workers: int, progress: Progress | None
) -> None:
    missing = [task for task in tasks if not is_finished(writer.folder, task)]
    total = sum(len(task.images) for task in tasks)
    done = total - sum(len(task.images) for task in missing)
    with progress_bar("images") as bar:
        show = progress or bar
        for number, _ in run_tasks(writer.write, missing, workers, lambda task: f"{task.name}.tar"):
            done += len(missing[number].images)
            show(done, total)


def _require_images(
    part: Path, listing: Listing, tasks: Sequence[ShardTask], reports: Sequence[ShardReport]
) -> None:
    """Raise UserError for a split without a usable image; the finished shards are then deleted."""
    for split in sorted({task.split for task in tasks}):
        own = [found for task, found in zip(tasks, reports, strict=True) if task.split == split]
        if not any(len(found.images) for found in own):
            discard(part / PLAN)  # without it nothing is kept
            bad = [pair for r in own for pair in zip(r.skipped, r.reasons, strict=True)]
            image, reason = min(bad)
            name = printable(listing.reader.name(listing.sources[image].reference))
            raise UserError(
                f"{listing.name}: no images: none of {len(bad):,} for {split} is usable, "
                f"first {name}: {reason}"
            )


def _write_tables(
    part: Path,
    listing: Listing,
    tasks: Sequence[ShardTask],
    reports: Sequence[ShardReport],
    packed: PackReport,
) -> None:
    """Write `sources.tsv`, `classes.txt` and `pack.json`."""
    lines = ["key\tfile\n"]
    for task, found in zip(tasks, reports, strict=True):
        for image, position in found.images[["image", "position"]].tolist():
            name = escaped(listing.reader.name(listing.sources[image].reference))
            lines.append(f"{sample_key(task.split, position)}\t{name}\n")
    write_atomically(part / "sources.tsv", "".join(lines).encode(*ENCODING))
    if listing.classes:
        names = "".join(f"{escaped(name)}\n" for name in listing.classes)
        write_atomically(part / "classes.txt", names.encode(*ENCODING))
    summary = json.dumps(without_secrets(to_json(packed)), indent=1)
    write_atomically(part / "pack.json", f"{summary}\n".encode())


def _find_duplicates(listing: Listing, kept: Path, workers: int) -> npt.NDArray[np.int64]:
    """(duplicate, original) [n 2]: numbers of files with the content of an earlier file.

    Only files of equal or unknown size are read.  The result is saved as `kept`.
    """
    if kept.exists():
        return np.load(kept)
    sizes, times = np.unique(listing.sizes, return_counts=True)
    several = sizes[(times > 1) | (sizes == UNKNOWN_SIZE)]
    suspects = np.flatnonzero(np.isin(listing.sizes, several))
    starts = range(0, len(suspects), FILES_AT_ONCE)
    tasks = [suspects[start : start + FILES_AT_ONCE] for start in starts]
    digests: list[npt.NDArray[np.uint64]] = [np.zeros((0, DIGEST_WORDS), np.uint64)] * len(tasks)
    with progress_bar("files compared") as bar:
        reader = _DigestReader(listing)
        for done, (number, found) in enumerate(run_tasks(reader, tasks, workers), 1):
            digests[number] = found
            bar(min(done * FILES_AT_ONCE, len(suspects)), len(suspects))
    groups = exact_duplicates(np.concatenate(digests)) if tasks else []
    pairs = [(suspects[copy], suspects[group[0]]) for group in groups for copy in group[1:]]
    dropped = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    file = io.BytesIO()
    np.save(file, dropped)
    write_atomically(kept, file.getvalue())
    return dropped


class _DigestReader(NamedTuple):
    """Task of the worker processes that compare files."""

    listing: Listing

    def __call__(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Content digests [n 2]; an unreadable file gets a digest of its own."""
        rows = []
        for image in images.tolist():
            try:
                data = self.listing.reader.read(self.listing.sources[image].reference)
                rows.append(content_digest(data))
            except (BadImage, SampleError):
                rows.append(content_digest(f"unreadable {image}".encode()))
        return np.frombuffer(b"".join(rows), "<u8").reshape(-1, DIGEST_WORDS).astype(np.uint64)
