"""How a model is doing while it trains, from a few held-out images.

What the numbers mean is for `mae.evaluation.verdicts` to say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.data.images import Images
from mae.data.loader import CentredViews
from mae.data.scan import NO_LABEL
from mae.data.transform import stack
from mae.errors import SampleError, StorageError, UserError
from mae.evaluation.collapse import DEAD, mean_cosine, rankme, relative_deviations
from mae.evaluation.features import Matrix
from mae.evaluation.knn import knn_accuracy
from mae.evaluation.probe import Labels, path, standardise
from mae.evaluation.reconstruction import explained_variance
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.tensor_hashing import as_tensor

BATCH = 32
"""images at a time; the same batches on any number of processes, so the same bits"""

FEATURE = "mean"
"""of an objective's pooled features: patch means, MAE's better one"""

FEWEST_PER_CLASS = 5
"""fitted images a class, on average: with fewer, accuracies are mostly chance"""

STRENGTH = 0.01
"""the probe's C (see `mae.evaluation.probe`): a middling one, so that nothing has to be chosen"""

ITERATIONS = 100


class Health(NamedTuple):
    """One measurement.  None: does not apply; NaN: the features are not finite."""

    images: int
    """held-out images measured"""
    bad: int
    """further ones that could not be decoded, and were skipped"""
    width: int
    """dimensions of the features"""
    r2: float | None
    """share of the hidden pixels' variance that the model explains, at most 1"""
    r2_interpolation: float | None
    """the same for a smooth filling from the visible patches"""
    r2_patch_mean: float | None
    """the same for each hidden patch's true mean; 0 by construction with `norm_pix_loss`"""
    rankme: float
    """effective dimensions of the features, 1 to min(images, width)"""
    spread: float
    """deviation of the features' directions per dimension, times sqrt(width): 1 = all over the
    sphere, 0 = every image has the same features"""
    dead: float
    """share of the dimensions in which the images do not differ, 0 to 1"""
    cosine: float
    """mean cosine similarity of two different images, -1 to 1"""
    knn: float | None
    """k-NN accuracy on half of the labelled images, the neighbours being the other half, 0 to 1"""
    probe: float | None
    """accuracy of a quick linear probe on the same halves, 0 to 1"""
    chance: float | None
    """accuracy of always guessing the most frequent class, 0 to 1"""


class Part(NamedTuple):
    """What one batch of images yields; small enough to be sent to the other processes."""

    numbers: list[int]
    """of the images that could be used, in the manifest"""
    features: Matrix
    """[n d]"""
    sums: npt.NDArray[np.float64]
    """[6] of `hidden_sums`; empty for objectives that do not hide patches"""
    bad: int
    unreadable: str
    """why storage failed, and nothing else is here; "" where it did not"""


NOTHING = Part([], np.empty((0, 0), np.float32), np.empty(0), 0, "")


def measure_health(
    objective: Objective,
    images: Images,
    crop_pct: float,
    seed: int,
    limit: int,
    *,
    device: torch.device | str = "cpu",
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda own: own,
) -> Health:
    """Measure on `limit` of `images`, the same ones each time, drawn by `seed` like their masks.

    Called by all processes, each of which decodes and encodes its part; `gather` joins a list of
    each process to one list on all (`accelerate.utils.gather_object`).  All get the same result,
    and no random state is touched.  Raises StorageError where shards cannot be read and UserError
    where no image can be decoded, on all processes alike.
    """
    was_training = objective.training
    objective.eval()
    try:
        batches = held_out(len(images.manifest), seed, limit)[process_index::num_processes]
        own = _measure_parts(objective, images, batches, crop_pct, seed, device)
    finally:
        objective.train(was_training)
    parts: list[Part] = gather(own)
    for part in parts:
        if part.unreadable:
            raise StorageError(part.unreadable)
    bad = sum(part.bad for part in parts)
    parts = sorted((part for part in parts if part.numbers), key=lambda part: part.numbers)
    if not parts:
        raise UserError(f"none of {min(limit, len(images.manifest))} held-out images is readable")
    # Once, by the first process: the others would need its cores, and wait for it either way.
    results = [summarise(parts, bad, images, seed)] if process_index == 0 else []
    return gather(results)[0]


def held_out(count: int, seed: int, limit: int) -> list[list[int]]:
    """Numbers of `limit` random images out of `count`, ascending, in batches."""
    drawn = np.argsort(fold(seed, Stream.PANEL, np.arange(count), 1), kind="stable")[:limit]
    numbers = sorted(drawn.tolist())
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]


@torch.no_grad()
def _measure_parts(
    objective: Objective,
    images: Images,
    batches: list[list[int]],
    crop_pct: float,
    seed: int,
    device: torch.device | str,
) -> list[Part]:
    views = CentredViews(images, objective.img_size, crop_pct)
    parts = []
    for batch in batches:
        usable: dict[int, Tensor] = {}
        for number in batch:
            try:
                usable[number] = views.view(number)
            except StorageError as error:  # to be raised by all processes, not by this one alone
                return [NOTHING._replace(unreadable=str(error))]
            except SampleError:
                continue
        numbers, bad = list(usable), len(batch) - len(usable)
        if not numbers:
            parts.append(NOTHING._replace(bad=bad))
            continue
        pixels = stack(list(usable.values())).to(device)
        masks = as_tensor(fold(seed, Stream.PANEL, np.array(numbers))).to(device)
        features = objective.encode(pixels).pooled[FEATURE].float().cpu().numpy()
        sums = NOTHING.sums
        if isinstance(objective, MaskedAutoencoder):
            sums = hidden_sums(objective, pixels, masks)
        parts.append(Part(numbers, features, sums, bad, ""))
    return parts


def hidden_sums(model: MaskedAutoencoder, images: Tensor, seeds: Tensor) -> npt.NDArray[np.float64]:
    """Hidden values, their sum and sum of squares; squared errors, in `Explained`'s order.

    Sums of several batches add up to those of all; shares of variance do not.
    """
    explained = explained_variance(model, [(images, seeds)])
    target = model.target(model.patchify(images), model.draw(images, seeds).ids_masked).double()
    total, squares = target.sum().item(), target.square().sum().item()
    deviation = max(squares - total**2 / target.numel(), 1e-12)
    r2 = np.array([explained.model, explained.patch_mean, explained.interpolation])
    return np.array([target.numel(), total, squares, *((1 - r2) * deviation)])


def summarise(parts: list[Part], bad: int, images: Images, seed: int) -> Health:
    """The numbers of all parts together."""
    numbers = np.concatenate([part.numbers for part in parts])
    features = np.concatenate([part.features for part in parts])
    sums = np.sum([part.sums for part in parts], axis=0)
    r2 = shares_explained(*sums.tolist()) if len(sums) else (None, None, None)
    finite = bool(np.isfinite(features).all())
    nothing = Accuracies(None, None, None)
    deviations = relative_deviations(features) if finite else np.full(1, np.nan)
    return Health(
        images=len(features),
        bad=bad,
        width=features.shape[1],
        r2=r2[0],
        r2_interpolation=r2[2],
        r2_patch_mean=r2[1],
        rankme=rankme(features) if finite else np.nan,
        spread=float(deviations.mean()),
        dead=float((deviations < DEAD).mean()) if finite else np.nan,
        cosine=mean_cosine(features) if finite else np.nan,
        **(accuracies(features, images, numbers, seed) if finite else nothing)._asdict(),
    )


def shares_explained(
    values: float, total: float, squares: float, *errors: float
) -> tuple[float, ...]:
    """R² of each predictor from the sums of `hidden_sums`."""
    deviation = max(squares - total**2 / values, 1e-12)
    return tuple(1 - error / deviation for error in errors)


class Accuracies(NamedTuple):
    """As in Health; None where there are too few labels."""

    knn: float | None
    probe: float | None
    chance: float | None


def accuracies(
    features: Matrix, images: Images, numbers: npt.NDArray[np.int64], seed: int
) -> Accuracies:
    """k-NN and probe between two random halves of the labelled images."""
    labels: Labels = images.manifest.label[numbers].astype(np.int64)
    order = np.argsort(fold(seed, Stream.PANEL, numbers, 2), kind="stable")
    order = order[labels[order] != NO_LABEL]
    fitted, tested = order[: len(order) // 2], order[len(order) // 2 :]
    classes, counts = np.unique(labels[fitted], return_counts=True)
    if len(classes) < 2 or counts.mean() < FEWEST_PER_CLASS:
        return Accuracies(None, None, None)
    given = features[fitted], labels[fitted], features[tested], labels[tested]
    scaled, scaled_tested = standardise(given[0], given[2])
    guess = path(scaled, given[1], scaled_tested, (STRENGTH,), ITERATIONS)[0].guesses
    return Accuracies(
        knn=knn_accuracy(*given),
        probe=float((guess == given[3]).mean()),
        chance=float((given[3] == classes[counts.argmax()]).mean()),
    )
