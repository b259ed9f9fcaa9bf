"""Training of a scorer on the features of normal images, batch by batch."""

from collections.abc import Generator, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from mae.anomaly.images import maps_of, views_of
from mae.anomaly.patch_features import Maps, PatchFeatures
from mae.anomaly.scorer import Scorer
from mae.base.hashing import Stream, fold
from mae.base.progress import Progress
from mae.data.images import Images

MEMORY = 2**29
"""bytes of features that are kept; those of further images are computed in every epoch"""
TOGETHER = 8
"""images, or tiles, of a step"""


def trained_parameters(
    scorer: Scorer,
    features: PatchFeatures,
    parameters: Mapping[str, Tensor],
    images: Images,
    *,
    seed: int,
    device: torch.device | str,
    workers: int,
    show: Progress,
) -> Mapping[str, Tensor]:
    """Parameters of a scorer that is trained on the features of `images`.

    `parameters` are those of `Scorer.finish`.  Bad images, which were counted then, are left out.
    """

    def batches(steps: int) -> Iterator[Maps]:
        found = epochs(scorer, features, images, seed, device, workers)
        for _ in range(steps):
            yield next(found)
        found.close()

    known = {key: value.to(device) for key, value in parameters.items()}
    return scorer.train(known, batches, features.layers, seed, show)


def epochs(
    scorer: Scorer,
    features: PatchFeatures,
    images: Images,
    seed: int,
    device: torch.device | str,
    workers: int,
) -> Generator[Maps]:
    """Yield features of batches for ever, every image once per epoch.

    The images of a batch are drawn once, the order of the batches in every epoch.
    """
    count = len(images.manifest)
    batches = np.array_split(_permuted(seed, 0, count), -(-count // TOGETHER))
    kept: dict[int, list[Maps]] = {}
    room, epoch = MEMORY, 0
    while True:
        epoch += 1
        order = _permuted(seed, epoch, len(batches)).tolist()
        missing = [batches[number].tolist() for number in order if number not in kept]
        loaded = views_of(images, [features], missing, workers)
        for number in order:
            if number in kept:
                yield from kept[number]
                continue
            found: list[Maps] = []
            size = 0
            for maps, _ in maps_of(next(loaded), features, scorer, device):
                for part in maps.split(TOGETHER):
                    size += part.nbytes
                    if size <= room:
                        found.append(part)
                    yield part
            if size <= room:
                kept[number], room = found, room - size


def _permuted(seed: int, epoch: int, count: int) -> np.ndarray:
    words = fold(seed, Stream.ORDER, epoch, np.arange(count))
    return np.argsort(words, kind="stable")
