"""Survey of the latents of a sparse autoencoder over images, divided among processes."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save
from torch import Tensor

from mae.base.divided_work import DividedWork, divided_work
from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.images import Images
from mae.data.labels import NO_LABEL
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.features import Skipped, UsableViews, Views
from mae.evaluation.parts import pack_columns, results_of_parts, split, unpack_columns
from mae.evaluation.token_pca import TokenPca, fit_token_pca
from mae.objectives.capabilities import PatchLatents
from mae.sparse_features.selectivity import Edges, bins_for, edges_of, most_classes
from mae.sparse_features.statistics import Arrays, Setup, Statistics, component_maxima, stored

BATCH = 32
"""images at a time"""
MOST_PARTS = 16
"""maximum number of parts: each is a file with statistics of all latents"""
FITTED = 512
"""maximum number of images that PCA is fitted on"""
MOST_NUMBERS = 4096
"""maximum length of a token for PCA, whose components are as many"""

Encode = Callable[[Tensor], PatchLatents]
"""integer images [b c h w] on the device → latents of their patches"""


class SurveyRequest(NamedTuple):
    """Model and images."""

    encode: Encode
    images: Images
    views: CentredViews
    identity: str
    """all that the latents depend on, besides images and views"""
    out: Path
    """file of the report, beside which the parts lie"""
    classes: int
    """number of classes of the labels; 0: no selectivity"""
    top: int = 8
    seed: int = 0
    max_bad: int = 0
    device: torch.device | str = "cpu"
    workers: int = 0
    portion: Portion = ALONE
    log: Callable[[str], None] = print


class Survey(NamedTuple):
    """Totals over all images."""

    arrays: Arrays
    setup: Setup
    grid: tuple[int, int]
    bad: list[str]
    """images that do not decode"""
    left_out: str
    """reason why labelled images have no class selectivity; empty: they do, or have no labels"""


def survey(request: SurveyRequest) -> Survey | None:
    """Totals of all images; None in processes other than the one that joins.

    PCA is fitted on up to FITTED of the same images, evenly spaced: to its advantage.  The result
    is that of one process, and an interrupted call resumes.  Raises UserError for tokens of more
    than MOST_NUMBERS numbers or that are not finite, and where more than `request.max_bad` images
    are bad; PartDone in a task of a job array.
    """
    total, portion = len(request.images.manifest), request.portion
    size = BATCH * -(-total // (BATCH * MOST_PARTS))
    sizes = [len(part) for part in split(range(total), size)]
    labels = drawn_labels(request)
    plan = json.dumps(
        [
            request.identity,
            request.images.manifest.fingerprint,
            [request.classes, request.top, request.seed, size],
            [request.views.img_size, request.views.crop_pct, torch.device(request.device).type],
        ]
    )
    with divided_work(request.out, plan, portion, request.log) as work:
        setup, grid = _set_up(request, work)

        def statistics(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
            skipped, read = _skipped(request), partial(load_views, request)
            for number, loaded in results_of_parts(numbers, sizes, BATCH, read):
                found, reasons = Statistics(setup), []
                for views in loaded:
                    skipped.add(views.bad)
                    reasons += [one.reason for one in views.bad]
                    if views.images is not None:
                        latents = encoded(request, views.images)
                        found.add(latents, torch.tensor(views.samples), labels[:, views.samples])
                yield number, pack_columns(stored(found.arrays), reasons)

        work.do("latents", sizes, statistics, ProgressLine("encoding", "images", request.log))
        if portion.is_task:
            portion.leave_to_first()
        if not portion.joins:
            return None
        found, skipped = Statistics(setup), _skipped(request)
        for part in map(unpack_columns, work.results("latents", len(sizes))):
            skipped.add_reasons(part.reasons)
            if part.columns:
                found.merge(part.columns)
        skipped.report(request.log)
    return Survey(
        found.arrays,
        setup,
        grid,
        skipped.reasons,
        _left_out(request, len(found.arrays["uses"]), setup),
    )


def load_views(request: SurveyRequest, batches: Sequence[range | list[int]]) -> Iterator[Views]:
    """Centred views of batches of images."""
    return load_in_workers(UsableViews(request.views), batches, request.workers)


@torch.no_grad()
def encoded(request: SurveyRequest, images: Tensor) -> PatchLatents:
    """Latents of images; UserError where they are not finite."""
    found = request.encode(images.to(request.device))
    if not (found.latents.isfinite().all() and found.tokens.isfinite().all()):
        raise UserError("latents: not finite: the weights are damaged; take another checkpoint")
    return found


def drawn_labels(request: SurveyRequest) -> npt.NDArray[np.int64]:
    """Labels [2 n] of the images: their own, and the same in random order; -1: none."""
    own = np.asarray(request.images.manifest.label).astype(np.int64)
    own = np.where(own == NO_LABEL, -1, own)
    known = np.flatnonzero(own >= 0)
    drawn = own.copy()
    drawn[known] = own[known][np.argsort(fold(request.seed, Stream.PANEL, known), kind="stable")]
    return np.stack([own, drawn])


def _set_up(request: SurveyRequest, work: DividedWork) -> tuple[Setup, tuple[int, int]]:
    """PCA and bins from some images, found by the first process.

    The images are encoded twice, so that no more than a batch of tokens is in memory.
    """

    def compute() -> bytes:
        total = len(request.images.manifest)
        chosen = np.unique(np.linspace(0, total - 1, min(total, FITTED)).round().astype(int))
        grids, maxima = [], []

        def tokens() -> Iterator[Tensor]:
            for found in _encoded_again(request, chosen):
                grids.append(found.grid)
                maxima.append(found.latents.float().amax(dim=1).cpu().numpy())
                yield found.tokens.flatten(0, 1).cpu().double()
            if not grids:
                raise UserError(f"none of {len(chosen)} images is readable")

        pca = fit_token_pca(tokens())
        values = np.concatenate(maxima)
        compared = values.shape[1] + 2 * len(pca.mean)
        bins = bins_for(compared, request.classes) if request.classes > 1 else 0
        both = []
        for found in _encoded_again(request, chosen) if bins else ():
            both.append(component_maxima(pca, found.tokens.cpu().double()))
        of_pca = torch.cat(both).numpy() if both else np.zeros((0, 0))
        return save(
            {
                "mean": pca.mean.numpy(),
                "basis": pca.basis.contiguous().numpy(),
                "tokens": np.array([pca.tokens]),
                "edges": np.array([list(edges_of(one, bins)) for one in (values, of_pca)]),
                "grid": np.array(grids[0]),
            }
        )

    known = load(work.once("setup", compute))
    pca = TokenPca(
        torch.from_numpy(known["mean"]),
        torch.from_numpy(known["basis"]),
        int(known["tokens"][0]),
    )
    own, of_pca = (Edges(low, high, int(bins)) for low, high, bins in known["edges"].tolist())
    rows, columns = known["grid"].tolist()
    setup = Setup(pca, own, of_pca, request.classes if own.bins else 0, request.top)
    return setup, (rows, columns)


def _encoded_again(request: SurveyRequest, numbers: npt.NDArray[Any]) -> Iterator[PatchLatents]:
    """Latents of the images that are readable, in batches; UserError for tokens too long."""
    batches = [numbers[one.start : one.stop].tolist() for one in split(range(len(numbers)), BATCH)]
    for views in load_views(request, batches):
        if views.images is None:
            continue
        found = encoded(request, views.images)
        width = found.tokens.shape[2]
        if width > MOST_NUMBERS:
            raise UserError(
                f"tokens of {width:,} numbers: PCA, the baseline, is fitted for up to "
                f"{MOST_NUMBERS:,} (a run with model.latent=map has smaller ones)"
            )
        yield found


def _left_out(request: SurveyRequest, latents: int, setup: Setup) -> str:
    if setup.classes or request.classes < 2:
        return ""
    compared = latents + 2 * len(setup.pca.mean)
    return (
        f"class selectivity is left out: {request.classes:,} classes need too much memory with "
        f"{compared:,} latents and principal directions, up to {most_classes(compared):,} do not"
    )


def _skipped(request: SurveyRequest) -> Skipped:
    return Skipped(request.images, request.max_bad, setting="--max-bad")
