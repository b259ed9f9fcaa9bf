"""Real images that generated ones are judged against: held-out ones, and those of the training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.joined_manifests import select
from mae.data.transform import choose_crop_pct
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import load_or_encode
from mae.evaluation.features import Skipped, UsableViews, ranges
from mae.evaluation.features_file import FeatureSet
from mae.generation.baselines import NAME, gaussian_samples
from mae.generation.distances import Nearest
from mae.generation.judges import FEATURE, Judge
from mae.generation.judging import LEAST, Judged, judge
from mae.objectives.base import Objective
from mae.objectives.registry import declaration

MOST_REAL = 10_000
"""maximum number of held-out images; of more a random subset"""

MOST_FITTED = 2_000
"""maximum number of training images that baselines are fitted to"""

MOST_NUMBERS = 64_000_000
"""maximum number of pixel values of these"""

MOST_JUDGED = 1_000
"""default maximum number of generated images that are judged"""

BATCH = 64
"""images read at a time"""


class Reading(NamedTuple):
    """Settings by which images are read and encoded."""

    config: Config
    img_size: tuple[int, int]
    folder: Path
    """cache of features"""
    device: str
    workers: int
    log: Callable[[str], None]

    def views(self, images: Images) -> CentredViews:
        """Centred views of `images`, as the model sees them."""
        share = choose_crop_pct(self.config.data.crop_pct, self.img_size)
        return CentredViews(images, self.img_size, share)


def encoded(images: Images, encoder: FrozenEncoder, reading: Reading) -> FeatureSet:
    """Features from the cache, or encoded now.  Raises as `load_or_encode`."""
    return load_or_encode(
        encoder,
        images,
        reading.folder,
        device=reading.device,
        workers=reading.workers,
        max_bad=reading.config.data.max_bad,
        log=reading.log,
    )


class RealImages(NamedTuple):
    """Held-out images, training images where they can be opened, and the judge of both."""

    held_out: Images
    train: Images | None
    judge: Judge
    reading: Reading

    def features(self, images: Images) -> FeatureSet:
        """Features of the judge.  Raises as `encoded`."""
        frozen = self.judge.frozen(self.reading.config, self.reading.img_size)
        return encoded(images, frozen, self.reading)

    def judge_sets(
        self, sets: Mapping[str, Tensor], seed: int, ceilings: Sequence[str] = ()
    ) -> "Judgement":
        """Judge integer images [m c h w] by name, as `judge` does; the report names the judge."""
        device = self.reading.device
        vectors = {
            name: self.judge.features(images, device).numpy() for name, images in sets.items()
        }
        held_out = self.features(self.held_out).vectors[FEATURE][:].astype(np.float32)
        train = self.features(self.train) if self.train else None
        among = None if train is None else train.vectors[FEATURE]
        judged = judge(vectors, held_out, among, seed=seed, ceilings=ceilings)
        names = {"judge": self.judge.name, "judge_sha256": self.judge.sha256}
        judged = judged._replace(report={**names, **judged.report})
        return Judgement(judged, None if train is None else train.samples)


class Judgement(NamedTuple):
    """Judged sets; numbers of the training images that the rows of `Nearest` stand for."""

    judged: Judged
    samples: np.ndarray | None

    def nearest(self, name: str) -> Nearest:
        """Numbers of the nearest training images, and their distances, of a set."""
        assert self.samples is not None
        found = self.judged.nearest[name]
        return found._replace(rows=self.samples[found.rows])


def random_subset(images: Images, most: int, seed: int) -> Images:
    """At most `most` of the images, a function of `seed` and of their number."""
    total = len(images.manifest)
    if total <= most:
        return images
    order = np.argsort(fold(seed, Stream.STATISTICS, np.arange(total)), kind="stable")
    return images.of(select(images.manifest, np.sort(order[:most])))


def read_views(images: Images, reading: Reading) -> Tensor:
    """Centred views [n c h w] of all usable images, integers.

    Raises UserError for more than data.max_bad others, StorageError for an unreadable shard.
    """
    skipped = Skipped(images, reading.config.data.max_bad)
    parts = []
    batches = ranges(len(images.manifest), BATCH)
    for found in load_in_workers(UsableViews(reading.views(images)), batches, reading.workers):
        skipped.add(found.bad)
        if found.images is not None:
            parts.append(found.images)
    return torch.cat(parts)


def images_to_judge(real: Images, wanted: int | None) -> int:
    """Number of generated images to judge; `wanted`: as the user wants it, None: the default.

    Raises UserError where there are too few real images, or too few are wanted.
    """
    count = len(real.manifest)
    if count < 2 * LEAST:
        raise UserError(f"--compare: {count} images are too few: at least {2 * LEAST}")
    if wanted is not None and wanted < LEAST:
        raise UserError(f"--judged: {wanted} images are too few: at least {LEAST}")
    return wanted or min(MOST_JUDGED, count // 2)


def baseline_sets(model: Objective, real: RealImages, count: int, seed: int) -> dict[str, Tensor]:
    """Samples [count c h w] of trivial models fitted to training images, in [0, 1], by name.

    Empty without training images.
    """
    if real.train is None:
        return {}
    reading = real.reading
    values = real.train.channels * reading.img_size[0] * reading.img_size[1]
    most = min(MOST_FITTED, max(2, MOST_NUMBERS // values))
    fitted = read_views(random_subset(real.train, most, seed), reading)
    if len(fitted) < 2:
        return {}
    seeds = as_tensor(fold(seed, Stream.STATISTICS, np.arange(count)))
    sets = {NAME: gaussian_samples(fitted, seeds)}
    if trivial := getattr(model, "trivial_samples", None):
        device = reading.device
        drawn = trivial(fitted.to(device), seeds.to(device)).float().clamp(0, 1).cpu()
        sets[declaration(reading.config.objective).trivial_samples] = drawn
    return sets
