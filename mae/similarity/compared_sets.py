"""Comparison of data sets for duplicates, divided among processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.divided_work import divided_work
from mae.base.portion import ALONE, Portion
from mae.data.images import Images
from mae.data.labels import NO_LABEL
from mae.evaluation.features import BATCH, Skipped
from mae.similarity.duplicates import (
    CORRELATION,
    THRESHOLD,
    Duplicates,
    feature_duplicates,
    find_duplicates,
    merged,
)
from mae.similarity.features import FeatureSource, Vectors, encoded
from mae.similarity.signatures import FORMAT, Signatures, signatures

TITLES = ("within", "against")


class NamedSet(NamedTuple):
    """Images, and the sample number of each row that was compared."""

    images: Images
    samples: npt.NDArray[np.int64]

    def class_of(self, row: int) -> str | int | None:
        """Class of a row: its name, its number where classes have no names, or None."""
        manifest = self.images.manifest
        label, names = int(manifest.label[self.samples[row]]), manifest.class_names
        if label == NO_LABEL:
            return None
        return names[label] if label < len(names) else label


class Comparison(NamedTuple):
    """Duplicates of images of one set in another, or the same."""

    title: str
    """one of TITLES"""
    found: Duplicates
    own: NamedSet
    other: NamedSet


class DuplicatesRequest(NamedTuple):
    """Settings of a comparison: the sets, the kinds of duplicates, the division of the work."""

    images: Images
    out: Path
    """file beside which unfinished work is kept"""
    against: Images | None = None
    correlation: float | None = CORRELATION
    """minimum correlation of near duplicates; None: exact duplicates alone"""
    mirrored: bool = True
    source: FeatureSource | None = None
    """features that are compared, too"""
    threshold: float = THRESHOLD
    """minimum similarity of features"""
    max_bad: int = 0
    """images of each set that may be unusable"""
    batch_size: int = BATCH
    workers: int = 0
    portion: Portion = ALONE
    log: Callable[[str], None] = print


class CompareResult(NamedTuple):
    """Comparisons within the images, and with the other set if there is one."""

    comparisons: list[Comparison]
    unusable: list[str]
    """shard, key and defect of each image that was skipped"""


def compare_sets(request: DuplicatesRequest) -> CompareResult | None:
    """Find the duplicates; None in all processes but the first.

    Each process does its portion of the signatures and features; an interrupted call resumes.
    Raises UserError where more than `max_bad` images of a set are unusable, or all are.
    """
    sets = [request.images, *([] if request.against is None else [request.against])]
    signed: list[Signatures | None] = []
    vectors: list[Vectors | None] = []
    plan = " ".join([FORMAT, *(images.manifest.fingerprint for images in sets)])
    with divided_work(request.out, plan, request.portion, request.log) as work:
        for number, images in enumerate(sets):
            request.log(f"signatures of {len(images.manifest):,} images")
            name = f"signatures-{number}"
            found = signatures(images, work, name, workers=request.workers, log=request.log)
            signed.append(found)
            vectors.append(_vectors(request, images))
    known = [one for one in signed if one is not None]
    if len(known) < len(sets):
        return None
    for images, one in zip(sets, known, strict=True):
        skipped = Skipped(images, request.max_bad)
        skipped.add_reasons(one.bad)
        skipped.report(request.log)
    named = [NamedSet(images, one.samples) for images, one in zip(sets, known, strict=True)]
    comparisons = []
    for number, title in enumerate(TITLES[: len(sets)]):
        found = find_duplicates(
            known[0],
            known[1] if number else None,
            correlation=request.correlation,
            mirrored=request.mirrored,
        )
        ours, theirs = vectors[0], vectors[number]
        if request.source is not None and ours is not None and theirs is not None:
            alike = feature_duplicates(
                ours, theirs if number else None, request.threshold, request.source.device
            )
            rows = (ours.samples, named[0].samples), (theirs.samples, named[number].samples)
            found = merged(found, _in_rows(alike, *rows))
        comparisons.append(Comparison(title, found, named[0], named[number]))
    return CompareResult(comparisons, [reason for one in known for reason in one.bad])


def _vectors(request: DuplicatesRequest, images: Images) -> Vectors | None:
    if request.source is None:
        return None
    return encoded(
        request.source,
        images,
        batch_size=request.batch_size,
        workers=request.workers,
        max_bad=request.max_bad,
        portion=request.portion,
        log=request.log,
    )


def _in_rows(
    found: Duplicates,
    own: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    other: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> Duplicates:
    """Rows of features → rows of signatures; each pair is the sample numbers of both."""
    columns: list[Any] = []
    is_known = np.ones(len(found.image), bool)
    for rows, (before, after) in ((found.image, own), (found.of, other)):
        samples = before[rows]
        place = np.searchsorted(after, samples).clip(max=len(after) - 1)
        is_known &= after[place] == samples
        columns.append(place)
    columns += [found.kind, found.similarity]
    return Duplicates(*(column[is_known] for column in columns))
