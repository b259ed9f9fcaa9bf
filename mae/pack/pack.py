"""Packing of images into WebDataset shards: `mae pack`.

List the images, assign them to shards, write the shards, report.  A shard depends only on the
listing, the options and its own number, so that any number of processes and workers writes the same
bytes, and an interrupted command resumes where it stopped.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mae.base.divided_work import DividedWork, divided_work
from mae.base.errors import UserError
from mae.base.files import publish
from mae.base.output import silent
from mae.base.portion import ALONE, Portion
from mae.base.progress import Progress, ProgressLine
from mae.data.manifest_file import open_manifest
from mae.data.task_pool import on_workers
from mae.pack.copies import find_copies
from mae.pack.listing import Listing, PackRequest
from mae.pack.output import PARTS, SHARDS, complete, manifest_file, require_new
from mae.pack.shard_plan import PackOptions, plan_shards
from mae.pack.sources import list_sources
from mae.pack.summary import PackReport

PLAN_VERSION = 4
"""changes whenever the same listing and options give other shards, or rows about their images"""


def pack(
    request: PackRequest,
    out: Path,
    options: PackOptions | None = None,
    *,
    workers: int = 0,
    portion: Portion = ALONE,
    progress: Progress | None = None,
    log: Callable[[str], None] = silent,
) -> PackReport:
    """Pack images into shuffled shards `out`/train-000000.tar … (and val-…, test-…).

    Image files are stored unchanged unless `options` resize or re-encode them.  Beside the shards
    lie their indexes, a manifest of each split, `classes.txt`, where classes have names,
    `sources.tsv`, the file of each key, and `pack.json`, the report.  The same images and options
    give the same bytes with any number of processes and `workers`.  `out` appears only when
    complete; until then `.OUT.parts` holds the finished shards, from which the same call resumes.

    Args:
        request: sources to pack.
        out: new or empty folder.
        options: shard size, validation split, encoding; None: the defaults.
        workers: number of worker processes; 0: this process does the work.
        portion: shards that this process writes; the first completes `out`.
        progress: called with the numbers of images done and in all; None: a line on stderr.
        log: called with lines about resumed or kept work.

    Raises UserError where nothing can be packed or `out` is not empty, WorkerDied where a worker
    process is killed, RunFailed for an internal error, naming the file; PartDone in all processes
    but the one that joins.
    """
    require_new(out)
    listing = list_sources(request, portion)
    return pack_listing(listing, out, options, workers, portion, progress, log)


def pack_listing(
    listing: Listing,
    out: Path,
    options: PackOptions | None = None,
    workers: int = 0,
    portion: Portion = ALONE,
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> PackReport:
    """Pack the images of a listing; arguments and errors as those of `pack`."""
    options = options or PackOptions()
    if options.resize and listing.sources.masks:
        raise UserError("--resize: images with --masks keep their size: resize both before")
    tasks = plan_shards(listing, options, np.array([], np.int64))
    plan = json.dumps([PLAN_VERSION, listing.fingerprint, listing.splits, options._asdict()])
    with divided_work(out, plan, portion, log) as work:
        require_new(out)  # another process may have written it meanwhile
        copies = np.zeros((0, 2), np.int64)
        if options.drop_duplicates:
            copies = find_copies(listing, work, workers)
            tasks = plan_shards(listing, options, copies[:, 0])
        shards = work.folder / f"{SHARDS}-{work.tag}"
        shards.mkdir(exist_ok=True)
        from mae.pack.shard_writer import ShardWriter  # imports torch, needed from here on

        writer = ShardWriter(listing, options, shards, work.folder)
        write = on_workers(writer.write, tasks.__getitem__, workers, lambda task: task.name)
        show = progress or ProgressLine("packing", "images", portion.log)
        work.do(PARTS, [len(task.images) for task in tasks], write, show)
        if portion.is_task:
            portion.leave_to_first()
        packed = None
        if portion.joins:
            packed = complete(shards, out, listing, tasks, copies, work)
        # The tasks of a job array have left: the process that joins measures alone.
        measuring = DividedWork(work.folder, plan, ALONE) if portion.is_join else work
        _measure_pixels(shards, packed, measuring, workers)
        if portion.joins:
            publish(shards, out)
    portion.leave_to_first()
    assert packed is not None
    return packed


def _measure_pixels(
    shards: Path, packed: PackReport | None, work: DividedWork, workers: int
) -> None:
    """Measure the statistics of the training pixels, which lie beside the indexes."""
    from mae.data.images import Images
    from mae.data.statistics import measure_divided

    usual = work.once("usual", lambda: json.dumps(packed and packed.usual).encode())
    channels, bits = json.loads(usual)
    images = Images(open_manifest(str(manifest_file(shards, "train"))), channels, bits)
    measure_divided(images, work, workers)
