"""Output folder of `mae pack`: tables, report and manifests beside the shards, then its name."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mae.base.divided_work import DividedWork
from mae.base.errors import RunFailed, UserError
from mae.base.files import discard, new_file, require_new_folder, sync
from mae.base.parts_folder import is_seen, parts_path, remove
from mae.base.printable import printable
from mae.base.redaction import without_secrets
from mae.data.class_names import ENCODING, FILE, escaped
from mae.data.index import INDEX_FOLDER
from mae.data.indexing import read_indexes
from mae.data.manifest_file import SUFFIX
from mae.data.manifest_writer import new_manifest
from mae.data.sample_names import SOURCES
from mae.data.shard_index import with_class_numbers
from mae.pack.listing import Listing
from mae.pack.shard_plan import ShardTask, sample_key
from mae.pack.shard_reports import Reports, read_reports
from mae.pack.summary import PackReport, summarize, to_json

REPORT = "pack.json"
PARTS, SHARDS = "report", "shards"
"""names of the parts, a report per shard, and of the folder that becomes the output"""


def require_new(out: Path) -> None:
    """Raise UserError unless `out` is new or an empty folder."""
    try:
        is_packed = bool(out.name) and (out / REPORT).exists()
    except OSError as error:
        raise UserError(f"{out}: cannot be read: {error.strerror}") from None
    if not is_packed:
        require_new_folder(out)
        return
    if not any(parts_path(out).glob(f"{SHARDS}-*")):
        remove(parts_path(out))  # its process was killed when `out` was complete
    raise UserError(
        f"{out}: is packed already; nothing is overwritten: write the name of a new folder"
    )


def complete(
    shards: Path,
    out: Path,
    listing: Listing,
    tasks: Sequence[ShardTask],
    copies: npt.NDArray[np.int64],
    work: DividedWork,
) -> PackReport:
    """Write what lies beside the finished `shards`, which will be `out`; the report.

    Raises UserError for a split without a usable image, and deletes all of its work; RunFailed
    where a shard is missing.
    """
    reports = read_reports(tasks, work.results(PARTS, len(tasks)))
    _require_images(listing, reports, work.folder)
    _tidy(shards, reports)
    _require_shards(shards, reports, work)
    packed = summarize(str(out), listing, copies, reports)
    _write(shards / SOURCES, _rows_of_sources(listing, reports))
    if listing.classes:
        _write(shards / FILE, (f"{escaped(name)}\n" for name in listing.classes))
    for split in packed.splits:
        written = [str(shards / name) for name in reports.written(split)]
        write_manifest_of(written, manifest_file(shards, split), work.folder)
    _write(shards / REPORT, [json.dumps(without_secrets(to_json(packed)), indent=1), "\n"])
    return packed


def manifest_file(folder: Path, split: str) -> Path:
    """Path of the manifest of a split."""
    return folder / f"manifest-{split}{SUFFIX}"


def _require_images(listing: Listing, reports: Reports, parts: Path) -> None:
    for split in sorted(reports.splits):
        if not reports.written(split):
            discard(parts)  # the same command would fail again
            bad = [(image, reason) for name, image, reason in reports.skipped if name == split]
            image, reason = min(bad)
            raise UserError(
                f"{listing.name}: no images: none of {len(bad):,} for {split} is usable, "
                f"first {printable(listing.name_of(image))}: {reason}"
            )


def _tidy(shards: Path, reports: Reports) -> None:
    """Delete what killed processes have left beside the shards that are written."""
    names = [name for split in reports.splits for name in reports.written(split)]
    indexes = {f"{name}.safetensors" for name in names}
    for folder, expected in ((shards, {INDEX_FOLDER, *names}), (shards / INDEX_FOLDER, indexes)):
        for path in folder.glob("*"):
            if path.name not in expected:
                discard(path)


def _require_shards(shards: Path, reports: Reports, work: DividedWork) -> None:
    for number, (task, count) in enumerate(zip(reports.tasks, reports.counts, strict=True)):
        shard = shards / task.name
        if count and not is_seen(shard.exists):
            work.forget(PARTS, number)
            raise RunFailed(f"{shard}: is missing: run the same command again, which writes it")


def _rows_of_sources(listing: Listing, reports: Reports) -> Iterable[str]:
    yield "key\tfile\n"
    rows = zip(reports.images["image"].tolist(), reports.images["position"].tolist(), strict=True)
    for task, count in zip(reports.tasks, reports.counts.tolist(), strict=True):
        for image, position in islice(rows, count):
            yield f"{sample_key(task.split, position)}\t{escaped(listing.name_of(image))}\n"


def write_manifest_of(shards: Sequence[str], out: Path, temporary: Path) -> None:
    """Write the manifest of shards from their indexes, which lie beside them."""
    indexes = (index for index, _ in read_indexes(shards, None, None))
    with new_manifest(out, temporary) as writer:
        for shard, index in zip(shards, with_class_numbers(shards, indexes), strict=True):
            writer.add(shard, index)


def _write(path: Path, text: Iterable[str]) -> None:
    encoding, errors = ENCODING
    with new_file(path) as part:
        with part.open("w", encoding=encoding, errors=errors, newline="\n") as file:
            file.writelines(text)
        sync(part)
