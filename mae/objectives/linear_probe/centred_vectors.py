"""Vectors of the centred views of test images, encoded by all processes together."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.divided_work import divided_work
from mae.base.output import silent
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.images import Images
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import identity
from mae.evaluation.features import (
    BATCH,
    Skipped,
    UsableViews,
    image_vectors,
    require_finite,
    uses_bf16,
)
from mae.evaluation.parts import PartResult, do_batches, pack_columns, unpack_columns

NAME = "vectors"
"""name of the parts"""


class CentredVectors(NamedTuple):
    """Encoded centred views of images; images that cannot be decoded have no row."""

    vectors: Tensor
    """float32 [n d]"""
    samples: npt.NDArray[np.int64]
    """[n] number of each row's image in the manifest"""
    skipped: list[str]
    """error of each image that cannot be decoded"""


def centred_vectors(
    encoder: FrozenEncoder,
    images: Images,
    out: Path,
    max_bad: int = 0,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    portion: Portion = ALONE,
    log: Callable[[str], None] = silent,
) -> CentredVectors | None:
    """Encode the centred view of each image; None in the processes that do not join.

    Each process encodes its `portion`, with its parts beside `out`, which is not written; an
    interrupted call resumes.  Raises UserError where more than `max_bad` images cannot be decoded,
    or features are not finite.
    """
    views = UsableViews(CentredViews(images, encoder.img_size, encoder.crop_pct))

    def compute(batches: Sequence[range]) -> Iterator[PartResult]:
        skipped = Skipped(images, max_bad)
        for batch in load_in_workers(views, batches, workers):
            skipped.add(batch.bad)
            columns: dict[str, npt.NDArray] = {}
            if batch.images is not None:
                vectors = image_vectors(encoder, batch.images.to(device)).cpu()
                require_finite(vectors, encoder.name)
                columns = {NAME: vectors.numpy(), "samples": np.array(batch.samples)}
            yield PartResult(columns, [one.reason for one in batch.bad])

    def pack(parts: list[PartResult]) -> bytes:
        usable = [part.columns for part in parts if part.columns]
        names = usable[0] if usable else {}
        columns = {name: np.concatenate([one[name] for one in usable]) for name in names}
        return pack_columns(columns, [reason for part in parts for reason in part.reasons])

    precision = [torch.device(device).type, uses_bf16(device)]
    plan = json.dumps([identity(encoder, images), batch_size, precision])
    with divided_work(out, plan, portion, log) as work:
        log(f"encoding {len(images.manifest):,} test images")
        show, total = ProgressLine("encoding", "images", log), len(images.manifest)
        count = do_batches(work, NAME, total, batch_size, compute, pack, show)
        if not portion.joins:
            return None
        parts = [unpack_columns(part) for part in work.results(NAME, count)]
        skipped = Skipped(images, max_bad)
        skipped.add_reasons([reason for part in parts for reason in part.reasons])
    usable = [part.columns for part in parts if part.columns]
    vectors, samples = (np.concatenate([one[name] for one in usable]) for name in (NAME, "samples"))
    return CentredVectors(torch.from_numpy(vectors), samples, skipped.reasons)
