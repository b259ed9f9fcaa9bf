"""Images to WebDataset shards: `mae pack`.

List what is there, deal it out to shards, write each shard in whichever process is free, report.
A shard depends on nothing but the listing, the options and its own number, so that any number of
processes gives the same bytes, and an interrupted command goes on where it stopped.
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
from mae.base.progress import Progress, progress_bar
from mae.data.workers import in_workers
from mae.decoding.pixels import BadImage
from mae.pack.duplicates import DIGEST_WORDS, content_digest, exact_copies
from mae.pack.plan import (
    PackOptions,
    ShardReport,
    ShardTask,
    delete_report,
    finished,
    key_of,
    load_report,
    plan_shards,
)
from mae.pack.report import Packed, report, to_json
from mae.pack.sources import UNKNOWN, Listing, Wanted, find_sources, shown
from mae.pack.unfinished import PLAN, begin, unfinished_folder, write_whole

if TYPE_CHECKING:
    from mae.pack.shard_writer import ShardWriter

FORMAT = 2
"""of the shards that equal plans give"""
FILES_AT_ONCE = 256
# File names are bytes: those that are no UTF-8 are written as they are.
AS_BYTES = ("utf-8", "surrogateescape")


def pack(
    wanted: Wanted,
    out: Path,
    options: PackOptions | None = None,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Packed:
    """Write `out`/train-000000.tar … (and val-…, test-…), shuffled; bytes as they are by default.

    Beside them: `classes.txt`, where classes have names, `sources.tsv`, which tells each key's
    file, and `pack.json`, all that is reported.  The same images and options give the same bytes
    with any number of `workers` (0: this process).  `out` appears only whole; until then
    `.OUT.part` holds the shards that are done, and the same call goes on from there.  `progress`
    hears of images (None: a bar, if stderr is a terminal), `say` of what was resumed or kept.
    Raises UserError where nothing can be packed or `out` has something in it, WorkerDied where a
    worker process is killed, RunFailed for a fault of ours, naming the file.
    """
    options = options or PackOptions()
    with unfinished_folder(out, say) as part:
        listing = find_sources(wanted)
        plan_shards(listing, options, np.array([], np.int64))  # refused before work is kept
        goes_on = _begin(part, listing, options, say)
        dropped = np.zeros((0, 2), np.int64)
        if options.drop_duplicates:
            dropped = _copies(listing, part / "copies.npy", workers)
        tasks = plan_shards(listing, options, dropped[:, 0])
        if goes_on and (done := sum(finished(part, task) for task in tasks)):
            say(f"{out}: going on, {done:,} of {len(tasks):,} shards are done")
        from mae.pack.shard_writer import ShardWriter  # torch, where the pixels are needed

        _write_shards(ShardWriter(listing, options, part), tasks, workers, progress)
        reports = [load_report(part, task) for task in tasks]
        _require_images(part, listing, tasks, reports)
        packed = report(str(out), listing, options, dropped, tasks, reports)
        _write_tables(part, listing, tasks, reports, packed)
        for task in tasks:
            delete_report(part, task)
        (part / "copies.npy").unlink(missing_ok=True)
    return packed


def _begin(part: Path, listing: Listing, options: PackOptions, say: Callable[[str], None]) -> bool:
    """Whether shards of an earlier attempt are those of this one."""
    plan = json.dumps([FORMAT, listing.stamp, listing.splits, options._asdict()])
    before = (part / PLAN).exists()
    same = begin(part, hashlib.sha256(plan.encode()).hexdigest())
    if before and not same:
        say(f"{part}: was begun with other images or options: beginning anew")
    return same


def _write_shards(
    writer: "ShardWriter", tasks: Sequence[ShardTask], workers: int, progress: Progress | None
) -> None:
    missing = [task for task in tasks if not finished(writer.folder, task)]
    total = sum(len(task.images) for task in tasks)
    done = total - sum(len(task.images) for task in missing)
    with progress_bar("images") as bar:
        show = progress or bar
        for number, _ in in_workers(
            writer.write, missing, workers, lambda task: f"{task.name}.tar"
        ):
            done += len(missing[number].images)
            show(done, total)


def _require_images(
    part: Path, listing: Listing, tasks: Sequence[ShardTask], reports: Sequence[ShardReport]
) -> None:
    """Raises UserError for a split without one usable image; nothing is kept then."""
    for split in sorted({task.split for task in tasks}):
        own = [found for task, found in zip(tasks, reports, strict=True) if task.split == split]
        if not any(len(found.images) for found in own):
            (part / PLAN).unlink()
            bad = [pair for r in own for pair in zip(r.skipped, r.reasons, strict=True)]
            image, reason = min(bad)
            name = shown(listing.reader.name(listing.sources[image].reference))
            raise UserError(
                f"{listing.name}: no images: none of {len(bad):,} for {split} is usable, "
                f"first {name}: {reason}"
            )


def _write_tables(
    part: Path,
    listing: Listing,
    tasks: Sequence[ShardTask],
    reports: Sequence[ShardReport],
    packed: Packed,
) -> None:
    lines = ["key\tfile\n"]
    for task, found in zip(tasks, reports, strict=True):
        for image, position in found.images[["image", "position"]].tolist():
            name = _escaped(listing.reader.name(listing.sources[image].reference))
            lines.append(f"{key_of(task.split, position)}\t{name}\n")
    write_whole(part / "sources.tsv", "".join(lines).encode(*AS_BYTES))
    if listing.classes:
        names = "".join(f"{_escaped(name)}\n" for name in listing.classes)
        write_whole(part / "classes.txt", names.encode(*AS_BYTES))
    write_whole(part / "pack.json", (json.dumps(to_json(packed), indent=1) + "\n").encode())


def _escaped(name: str) -> str:
    """One field of one line."""
    name = name.replace("\\", "\\\\")
    return name.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _copies(listing: Listing, kept: Path, workers: int) -> npt.NDArray[np.int64]:
    """[n 2]: files whose content an earlier file has, and the first such file, by number.

    Only files of equal sizes are read.
    """
    if kept.exists():
        return np.load(kept)
    sizes, times = np.unique(listing.sizes, return_counts=True)
    several = sizes[(times > 1) | (sizes == UNKNOWN)]
    suspects = np.flatnonzero(np.isin(listing.sizes, several))
    starts = range(0, len(suspects), FILES_AT_ONCE)
    tasks = [suspects[start : start + FILES_AT_ONCE] for start in starts]
    digests: list[npt.NDArray[np.uint64]] = [np.zeros((0, DIGEST_WORDS), np.uint64)] * len(tasks)
    with progress_bar("files compared") as bar:
        reader = _DigestReader(listing)
        for done, (number, found) in enumerate(in_workers(reader, tasks, workers), 1):
            digests[number] = found
            bar(min(done * FILES_AT_ONCE, len(suspects)), len(suspects))
    groups = exact_copies(np.concatenate(digests)) if tasks else []
    pairs = [(suspects[copy], suspects[group[0]]) for group in groups for copy in group[1:]]
    dropped = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    file = io.BytesIO()
    np.save(file, dropped)
    write_whole(kept, file.getvalue())
    return dropped


class _DigestReader(NamedTuple):
    listing: Listing

    def __call__(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Digests [n 2]; what cannot be read is equal to nothing."""
        rows = []
        for image in images.tolist():
            try:
                data = self.listing.reader.read(self.listing.sources[image].reference)
                rows.append(content_digest(data))
            except (BadImage, SampleError):
                rows.append(content_digest(f"unreadable {image}".encode()))
        return np.frombuffer(b"".join(rows), "<u8").reshape(-1, DIGEST_WORDS).astype(np.uint64)
