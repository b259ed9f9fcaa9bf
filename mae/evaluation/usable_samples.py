"""Samples that decode, found by decoding all images once, on one process or several."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.output import silent
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.features import BATCH, Skipped, UsableViews, Views
from mae.evaluation.parts import do_batches, pack_columns, unpack_columns


class UsableSamples(NamedTuple):
    """Samples that decode."""

    samples: npt.NDArray[np.int64]
    """numbers in the manifest, ascending"""
    skipped: list[str]
    """shard, key and error of each other sample"""


class _WithoutPixels(UsableViews):
    """Data set as `UsableViews`, whose workers send no pixels."""

    def __getitem__(self, index: range) -> Views | UserError:
        found = super().__getitem__(index)
        return found if isinstance(found, UserError) else found._replace(images=None)


def usable_samples(
    views: CentredViews,
    max_bad: int,
    out: Path,
    *,
    workers: int = 0,
    portion: Portion = ALONE,
    log: Callable[[str], None] = silent,
) -> UsableSamples:
    """Decode all images once, to find those that do not decode before hours of work.

    Each process decodes its `portion`, with its parts beside `out`, which is not written.  Raises
    UserError where more than `max_bad` do not decode, StorageError for an unreadable shard.
    """
    images, total = views.images, len(views)
    log(f"decoding {total:,} images once, to find those that do not decode")
    chosen = [images.channels, images.bits, images.needs._asdict(), views.img_size, BATCH]

    def compute(batches: Sequence[range]) -> Iterator[Views]:
        skipped = Skipped(images, max_bad)
        for found in load_in_workers(_WithoutPixels(views), batches, workers):
            skipped.add(found.bad)
            yield found

    def pack(parts: list[Views]) -> bytes:
        samples = np.array([sample for part in parts for sample in part.samples], np.int64)
        return pack_columns({"samples": samples}, [one.reason for p in parts for one in p.bad])

    plan = json.dumps([images.manifest.fingerprint, chosen])
    with divided_work(out, plan, portion, log) as work:
        show = ProgressLine("decoding", "images", log)
        count = do_batches(work, "usable", total, BATCH, compute, pack, show)
        found = [unpack_columns(part) for part in work.results("usable", count)]
        skipped = Skipped(images, max_bad)
        skipped.add_reasons([reason for part in found for reason in part.reasons])
    return UsableSamples(np.concatenate([p.columns["samples"] for p in found]), skipped.reasons)
