"""Fitting of a detector: statistics of normal images, calibration on further ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mae.anomaly.defect_masks import DefectMasks
from mae.anomaly.detector import MAIN, Member, write_detector
from mae.anomaly.images import (
    LOOKS,
    SAMPLES,
    Scored,
    Views,
    batch_size,
    joined,
    maps_of,
    pack,
    score_views,
    views_of,
)
from mae.anomaly.inputs import identity
from mae.anomaly.looks import WORDS, Looks, looks_of
from mae.anomaly.patch_features import PatchFeatures
from mae.anomaly.scorers import SCORERS, Statistics
from mae.anomaly.threshold import Threshold, conformal_threshold
from mae.anomaly.training import trained_parameters
from mae.base.divided_work import DividedWork, divided_work, part_sizes
from mae.base.errors import UserError
from mae.base.files import new_folder
from mae.base.output import silent
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.images import Images
from mae.evaluation.features import Skipped
from mae.evaluation.parts import pack_columns, results_of_parts, unpack_columns

LEAST = 16
"""images of a part: statistics of fewer cost more to merge than to compute"""
PARTS = 64
"""maximum number of parts whose statistics are on disk at a time"""
LARGE_PARTS = 8
"""the same, for statistics of each position of tiles, which are large"""
SAMPLE = 512
"""maximum number of normal images that are scored, to find anomalous ones among them"""


class FitRequest(NamedTuple):
    """Detector to make."""

    members: Mapping[str, tuple[PatchFeatures, str]]
    """features and scorer of each member: MAIN, then the baselines"""
    normal: Images
    calibration: Images
    alpha: float
    seed: int
    max_bad: int
    settings: Mapping[str, Any]
    """recorded in the detector"""
    device: torch.device | str = "cpu"
    workers: int = 0
    portion: Portion = ALONE
    log: Callable[[str], None] = print


class Fitted(NamedTuple):
    """Result of `fit_detector` in the first process."""

    threshold: Threshold
    calibration: Scored
    normal: Scored
    """of at most SAMPLE images, by the detector alone"""
    looks: dict[str, Looks]
    """of `normal` and `calibration` images"""
    skipped: list[str]
    """bad normal images"""


def fit_detector(
    out: Path, request: FitRequest, write_encoder: Callable[[Path], None] = lambda folder: None
) -> Fitted | None:
    """Fit the members to the normal images, calibrate, and write the detector `out`.

    Divided among processes; None in all but the first.  An interrupted call resumes.
    `write_encoder` adds the encoder to the detector's folder.  Raises UserError where `out` is
    there, too few calibration images for `alpha`, or too many bad images.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; nothing is overwritten: choose another name")
    normal, calibration, portion = request.normal, request.calibration, request.portion
    conformal_threshold(torch.arange(len(calibration.manifest)).double().numpy(), request.alpha)
    plan = [
        *(f"{one.sha256} {scorer}" for one, scorer in request.members.values()),
        *(identity(one) for one in (normal, calibration)),
        request.seed,
    ]
    with divided_work(out, json.dumps(plan), portion, request.log) as work:
        members, looks, skipped = _fitted(work, request)
        count = len(normal.manifest)
        own = scores_of(
            work,
            "normal",
            normal,
            {MAIN: members[MAIN]},
            device=request.device,
            workers=request.workers,
            log=silent,
            chosen=range(0, count, -(-count // SAMPLE)),
        )
        scored = scores_of(
            work,
            "calibration",
            calibration,
            members,
            device=request.device,
            workers=request.workers,
            log=request.log,
        )
        if not portion.joins:
            return None
        bad = Skipped(calibration, request.max_bad, setting="--max-bad")
        bad.add_reasons(scored.bad)
        bad.report(request.log)
        threshold = conformal_threshold(scored.scores[MAIN], request.alpha)
        settings = {**request.settings, "threshold": threshold._asdict(), "seed": request.seed}
        tensors = {name: torch.from_numpy(values) for name, values in scored.scores.items()}
        others = looks_of(calibration.manifest, scored.samples, scored.looks)
        marks = {"normal": looks, "calibration": others}
        with new_folder(out) as folder:
            write_encoder(folder)
            write_detector(folder, members, tensors, settings, marks)
    return Fitted(threshold, scored, own, marks, skipped)


def _fitted(work: DividedWork, request: FitRequest) -> tuple[dict[str, Member], Looks, list[str]]:
    """Members with their parameters, the same in all processes; marks of images; bad images."""
    images = request.normal
    features = [one for one, _ in request.members.values()]
    is_large = any(
        one.rule.tiling and SCORERS[scorer].is_positional
        for one, scorer in request.members.values()
    )
    sizes = few_parts(len(images.manifest), LARGE_PARTS if is_large else PARTS)
    views = partial(views_of, images, features, workers=request.workers)

    def collect(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for number, found in results_of_parts(numbers, sizes, batch_size(features), views):
            yield number, _statistics(found, request)

    def merge() -> bytes:
        merged: dict[str, Statistics] = {}
        skipped = Skipped(images, request.max_bad, setting="--max-bad")
        marks: dict[str, list[np.ndarray]] = {SAMPLES: [], LOOKS: []}
        for part in map(unpack_columns, work.results("statistics", len(sizes))):
            skipped.add_reasons(part.reasons)
            for key, column in marks.items():
                column.append(part.columns[key])
            for name, (_, scorer) in request.members.items():
                found = _of_member(part.columns, name)
                if found:
                    before = merged.get(name)
                    merged[name] = SCORERS[scorer].merge(before, found) if before else found
        if not merged:
            raise UserError(f"--normal: none of {len(images.manifest):,} images is readable")
        parameters = {
            f"{name}.{key}": value.numpy()
            for name, (_, scorer) in request.members.items()
            for key, value in SCORERS[scorer].finish(merged[name]).items()
        }
        known = {key: np.concatenate(column) for key, column in marks.items()}
        return pack_columns({**parameters, **known}, skipped.reasons)

    work.do(
        "statistics", sizes, collect, ProgressLine("collecting statistics", "images", request.log)
    )
    result = unpack_columns(work.once("parameters", merge))
    parameters = {name: as_parameters(_of_member(result.columns, name)) for name in request.members}
    for number, (name, (_, scorer)) in enumerate(request.members.items()):
        if SCORERS[scorer].is_trained:
            train = partial(_trained, name, parameters[name], request)
            stored = unpack_columns(work.once(f"trained-{number}", train))
            parameters[name] = as_parameters(stored.columns)
    members = {
        name: Member(
            features,
            scorer,
            {key: value.to(request.device) for key, value in parameters[name].items()},
        )
        for name, (features, scorer) in request.members.items()
    }
    looks = looks_of(images.manifest, result.columns[SAMPLES], result.columns[LOOKS])
    return members, looks, result.reasons


def _statistics(found: Iterable[Views], request: FitRequest) -> bytes:
    """Statistics of some normal images, of all members."""
    merged: dict[str, Statistics] = {}
    bad: list[str] = []
    samples: list[int] = []
    looks: list[np.ndarray] = [np.empty((0, WORDS), np.int64)]
    for views in found:
        bad += [one.reason for one in views.bad]
        if not views.samples:
            continue
        samples += views.samples
        looks += [np.stack(views.looks)]
        for name, (one, scorer) in request.members.items():
            for maps, numbers in maps_of(views, one, SCORERS[scorer], request.device):
                own = SCORERS[scorer].collect(maps, numbers, request.seed)
                merged[name] = SCORERS[scorer].merge(merged[name], own) if name in merged else own
    columns = {f"{name}.{key}": value for name, one in merged.items() for key, value in one.items()}
    marks = {SAMPLES: np.array(samples, np.int64), LOOKS: np.concatenate(looks)}
    return pack_columns({**columns, **marks}, bad)


def _trained(name: str, parameters: Mapping[str, torch.Tensor], request: FitRequest) -> bytes:
    """Parameters of a member, trained by the first process, which starts anew after a kill."""
    features, scorer = request.members[name]
    request.log(f"training {features.name}, {scorer}")
    found = trained_parameters(
        SCORERS[scorer],
        features,
        parameters,
        request.normal,
        seed=request.seed,
        device=request.device,
        workers=request.workers,
        show=ProgressLine("training the scorer", "steps", request.log),
    )
    return pack_columns({key: value.cpu().numpy() for key, value in found.items()}, ())


def scores_of(
    work: DividedWork,
    name: str,
    images: Images,
    members: Mapping[str, Member],
    *,
    device: torch.device | str,
    workers: int,
    log: Callable[[str], None],
    masks: DefectMasks | None = None,
    chosen: range | None = None,
) -> Scored:
    """Scores of all images of a data set, or of the `chosen`, divided into the parts `name`.

    `masks`: pixels are counted, too, see `score_views`.

    Raises UserError as `score_views`, StorageError for an unreadable shard.
    """
    numbers = chosen or range(len(images.manifest))
    sizes = few_parts(len(numbers))
    features = [member.features for member in members.values()]

    def views(batches: Sequence[range]) -> Iterator[Views]:
        return views_of(images, features, [numbers[b.start : b.stop] for b in batches], workers)

    def score(parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for number, found in results_of_parts(parts, sizes, batch_size(features), views):
            yield number, pack(score_views(found, members, device, masks))

    work.do(name, sizes, score, ProgressLine("scoring", "images", log))
    return joined(work.results(name, len(sizes)))


def few_parts(images: int, most: int = PARTS) -> list[int]:
    """Sizes of the parts of so many images, at most `most`."""
    return part_sizes(images, max(LEAST, LEAST * -(-images // (most * LEAST))))


def as_parameters(columns: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters of a scorer from stored arrays."""
    return {key: torch.from_numpy(value) for key, value in columns.items()}


def _of_member(columns: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in columns.items() if key.startswith(start)}
