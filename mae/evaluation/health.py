"""Health of a model in training: collapse of its features, k-NN and probe on held-out images.

`mae.evaluation.diagnosis` interprets the numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import SampleError, StorageError, UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.data.images import Images
from mae.data.labels import NO_LABEL
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.evaluation.features import Matrix
from mae.evaluation.knn import directions, knn_accuracy
from mae.evaluation.probe import Labels, regularisation_path, standardise
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut

BATCH = 32
"""images per batch; independent of the number of processes, so that results are bitwise equal"""

EPS = 1e-7
"""added to each normalised singular value, as in RankMe"""

DEAD = 0.01
"""a dimension is dead whose standard deviation is below this share of 1/sqrt(d)"""

FEWEST_PER_CLASS = 5
"""minimum mean number of fitted images per class; with fewer, accuracies are mostly chance"""

STRENGTH = 0.01
"""C of the quick probe (see `mae.evaluation.probe`), fixed: a medium penalty"""

ITERATIONS = 100
"""maximum number of L-BFGS iterations of the quick probe"""


def rankme(features: Matrix) -> float:
    """RankMe (Garrido et al. 2023, equation 1) of features [n d]: 1 to min(n, d).

    exp of the entropy of the normalised singular values; the features are not centred.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny) + EPS
    return float(np.exp(-(shares * np.log(shares)).sum()))


def relative_deviations(features: Matrix) -> npt.NDArray[np.float64]:
    """Standard deviations [d] of the L2-normalised features, in units of 1/sqrt(d).

    SimSiam's measure of collapse (Chen and He 2021, figure 2).
    """
    return directions(features).astype(np.float64).std(axis=0) * features.shape[1] ** 0.5


def mean_cosine(features: Matrix) -> float:
    """Mean cosine similarity of all pairs of different rows of [n d]; 1 for a single row."""
    unit = directions(features).astype(np.float64)
    n, total = len(unit), unit.sum(axis=0)
    if n == 1:
        return 1.0
    return float((total @ total - np.square(unit).sum()) / (n * (n - 1)))


class Health(NamedTuple):
    """Health of a model at one step.  None: does not apply; NaN: the features are not finite."""

    images: int
    """number of held-out images measured"""
    bad: int
    """number of further images, skipped since they do not decode"""
    width: int
    """dimensions of the features"""
    rankme: float
    """effective dimensions of the features, 1 to min(images, width)"""
    spread: float
    """mean standard deviation of the L2-normalised features, times sqrt(width): 1 = evenly spread
    over the sphere, 0 = every image has the same features"""
    dead: float
    """share of dead dimensions, in which images do not differ, 0 to 1"""
    cosine: float
    """mean cosine similarity of two different images, -1 to 1"""
    knn: float | None
    """k-NN accuracy on half of the labelled images, the neighbours being the other half, 0 to 1"""
    probe: float | None
    """accuracy of a quick linear probe on the same halves, 0 to 1"""
    chance: float | None
    """accuracy of always guessing the most frequent class, 0 to 1"""


class BatchMeasurement(NamedTuple):
    """Measurement of one batch of images; small enough to be sent to the other processes."""

    numbers: list[int]
    """numbers in the manifest of the images that decode"""
    features: Matrix
    """[n d]"""
    sums: npt.NDArray[np.float64]
    """the objective's own sums; empty where it has none"""
    bad: int
    problem: UserError | None
    """error that stopped this process, without a measurement; raised by all processes together"""


Sums = Callable[[Tensor, Tensor], npt.NDArray[np.float64]]
"""(images, seeds) → sums of the batch, which are added over batches; then maxima, if any"""

NOTHING = BatchMeasurement([], np.empty((0, 0), np.float32), np.empty(0), 0, None)


def measure_health(
    objective: Objective,
    images: Images,
    crop_pct: float | None,
    seed: int,
    limit: int,
    *,
    device: torch.device | str = "cpu",
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda own: own,
    sums: Sums | None = None,
    maxima: int = 0,
) -> tuple[Health, npt.NDArray[np.float64]]:
    """Measure health of the preferred pooled features, and totals of `sums`, on held-out images.

    The last `maxima` numbers of `sums` are maxima, and merged as such.
    `seed` draws `limit` of `images` and their noise: the same ones each time.  Called by all
    processes, each of which encodes its share; `gather` joins the lists of all processes into one
    list on each (`accelerate.utils.gather_object`).  All processes get the same result, and no
    random state changes.  Raises, on all processes alike, StorageError where shards cannot be read
    and UserError where no image can be decoded, or there are no pooled features.
    """
    was_training = objective.training
    objective.eval()
    try:
        batches = held_out(len(images.manifest), seed, limit)[process_index::num_processes]
        own = _measure_parts(
            objective,
            images,
            batches=batches,
            crop_pct=crop_pct,
            seed=seed,
            device=device,
            sums=sums,
        )
    finally:
        objective.train(was_training)
    parts: list[BatchMeasurement] = gather(own)
    for part in parts:
        if part.problem is not None:
            raise part.problem
    bad = sum(part.bad for part in parts)
    parts = sorted((part for part in parts if part.numbers), key=lambda part: part.numbers)
    if not parts:
        raise UserError(f"none of {min(limit, len(images.manifest))} held-out images is readable")
    # Once, by the first process: the others would need its cores, and wait for it either way.
    results = [summarise(parts, bad, images, seed)] if process_index == 0 else []
    rows = np.array([part.sums for part in parts])
    added = rows.shape[1] - maxima
    totals = np.concatenate([rows[:, :added].sum(axis=0), rows[:, added:].max(axis=0)])
    return gather(results)[0], totals


def measure_held_out(
    objective: Objective, held_out: HeldOut, sums: Sums | None = None, maxima: int = 0
) -> tuple[Health, npt.NDArray[np.float64]]:
    """`measure_health` with the settings of a run."""
    config = held_out.config
    return measure_health(
        objective,
        held_out.images,
        config.data.crop_pct,
        config.train.seed,
        config.log.health_images,
        device=held_out.device,
        process_index=held_out.process_index,
        num_processes=held_out.num_processes,
        gather=held_out.gather,
        sums=sums,
        maxima=maxima,
    )


def held_out(count: int, seed: int, limit: int) -> list[list[int]]:
    """Numbers of `limit` random images of `count`, ascending, in batches of BATCH."""
    drawn = np.argsort(fold(seed, Stream.PANEL, np.arange(count), 1), kind="stable")[:limit]
    numbers = sorted(drawn.tolist())
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]


@torch.no_grad()
def _measure_parts(
    objective: Objective,
    images: Images,
    batches: list[list[int]],
    crop_pct: float | None,
    seed: int,
    device: torch.device | str,
    sums: Sums | None,
) -> list[BatchMeasurement]:
    views = CentredViews(images, objective.img_size, crop_pct)
    parts = []
    for batch in batches:
        usable: dict[int, Tensor] = {}
        for number in batch:
            try:
                usable[number] = views.view(number)
            except StorageError as error:  # raised by all processes together
                return [NOTHING._replace(problem=error)]
            except SampleError:
                continue
        numbers, bad = list(usable), len(batch) - len(usable)
        if not numbers:
            parts.append(NOTHING._replace(bad=bad))
            continue
        pixels = stack(list(usable.values())).to(device)
        noise = as_tensor(fold(seed, Stream.PANEL, np.array(numbers))).to(device)
        pooled = objective.encode(pixels).pooled
        if not pooled:
            return [NOTHING._replace(problem=UserError("the objective has no pooled features"))]
        features = next(iter(pooled.values())).float().cpu().numpy()
        own = sums(pixels, noise) if sums else NOTHING.sums
        parts.append(BatchMeasurement(numbers, features, own, bad, None))
    return parts


def summarise(parts: list[BatchMeasurement], bad: int, images: Images, seed: int) -> Health:
    """Health from the measurements of all batches."""
    numbers = np.concatenate([part.numbers for part in parts])
    features = np.concatenate([part.features for part in parts])
    finite = bool(np.isfinite(features).all())
    nothing = Accuracies(None, None, None)
    deviations = relative_deviations(features) if finite else np.full(1, np.nan)
    return Health(
        images=len(features),
        bad=bad,
        width=features.shape[1],
        rankme=rankme(features) if finite else np.nan,
        spread=float(deviations.mean()),
        dead=float((deviations < DEAD).mean()) if finite else np.nan,
        cosine=mean_cosine(features) if finite else np.nan,
        **(accuracies(features, images, numbers, seed) if finite else nothing)._asdict(),
    )


class Accuracies(NamedTuple):
    """Accuracies as in Health; None where there are too few labels."""

    knn: float | None
    probe: float | None
    chance: float | None


def accuracies(
    features: Matrix, images: Images, numbers: npt.NDArray[np.int64], seed: int
) -> Accuracies:
    """Fit k-NN and probe to a random half of the labelled images, evaluate on the other half."""
    labels: Labels = images.manifest.label[numbers].astype(np.int64)
    order = np.argsort(fold(seed, Stream.PANEL, numbers, 2), kind="stable")
    order = order[labels[order] != NO_LABEL]
    fitted, tested = order[: len(order) // 2], order[len(order) // 2 :]
    classes, counts = np.unique(labels[fitted], return_counts=True)
    if len(classes) < 2 or counts.mean() < FEWEST_PER_CLASS:
        return Accuracies(None, None, None)
    split = features[fitted], labels[fitted], features[tested], labels[tested]
    scaled, scaled_tested = standardise(split[0], split[2])
    (fit,) = regularisation_path(scaled, split[1], scaled_tested, (STRENGTH,), ITERATIONS)
    return Accuracies(
        knn=knn_accuracy(*split),
        probe=float((fit.predicted == split[3]).mean()),
        chance=float((split[3] == classes[counts.argmax()]).mean()),
    )
