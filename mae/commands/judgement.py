"""Judgement of generated images for a command: baselines, report, sheet of nearest neighbours."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.data.joined_manifests import select
from mae.data.sample_names import sample_name
from mae.generation.judging import FLOOR, LEAST
from mae.generation.latents import LatentSpace, PathKind, latent_path
from mae.generation.real_images import (
    Judgement,
    RealImages,
    baseline_sets,
    images_to_judge,
    random_subset,
    read_views,
)
from mae.objectives.base import Objective
from mae.pictures.nearest_training import SHOWN, Neighboured, nearest_training_sheet
from mae.pictures.samples import as_levels
from mae.pictures.sheet import Sheet

SAMPLES = "samples"
MIDDLES, STRAIGHT = "middles of paths", "middles of straight lines"
CROSS_FADES, DECODED = "cross-fades", "decoded images"
"""names of the judged sets"""
NOTE = (
    "The samples nearest to a training image, in the features of the judge. Below each training "
    "image is its distance, as a multiple of the median distance of held-out images to their "
    "nearest one. Copies are near 0; blurred images are near to many."
)


def judge_samples(
    model: Objective, real: RealImages, samples: Tensor, seed: int, title: str
) -> tuple[dict[str, Any], Sheet | None]:
    """Report on integer `samples` beside baselines, and the sheet of nearest training images.

    No sheet without training images.
    """
    bits = real.reading.config.data.bits
    baselines = baseline_sets(model, real, len(samples), seed)
    sets = {name: as_levels(images, bits) for name, images in baselines.items()}
    judgement = real.judge_sets({SAMPLES: samples, **sets}, seed)
    if real.train is None:
        return judgement.judged.report, None
    return judgement.judged.report, nearest_sheet(real, judgement, samples, title)


def nearest_sheet(real: RealImages, judgement: Judgement, samples: Tensor, title: str) -> Sheet:
    """Sheet of the samples that are nearest to training images."""
    assert real.train is not None
    found = judgement.nearest(SAMPLES)
    usual = judgement.judged.report["rows"][FLOOR]["nearest_train"]["median"] or 1.0
    views = real.reading.views(real.train)
    rows = []
    for number in np.argsort(found.distances[:, 0], kind="stable")[:SHOWN].tolist():
        near = found.rows[number].tolist()
        words = [
            f"x {distance / usual:.2f}  {sample_name(real.train.manifest, sample)}"
            for sample, distance in zip(near, found.distances[number].tolist(), strict=True)
        ]
        pictures = [views.view(sample) for sample in near]
        rows.append(Neighboured(f"sample {number}", samples[number], pictures, words))
    return nearest_training_sheet(rows, f"{title}: nearest training images", [NOTE])


def judge_middles(
    space: LatentSpace, real: RealImages, wanted: int | None, seed: int
) -> dict[str, Any]:
    """Report on decoded middles of latent paths between random real images.

    Half of the held-out images are the ends, the other half are compared with.  Beside them stand
    cross-fades, the mean of the two images, and decoded ends: what the model alone changes; with
    a spherical path also the middles of straight lines.
    """
    total = len(real.held_out.manifest)
    if total < 4 * LEAST:
        raise UserError(f"--compare: {total} images are too few: at least {4 * LEAST}")
    order = np.argsort(fold(seed, Stream.ORDER, np.arange(total)), kind="stable")
    halves = [
        real.held_out.of(select(real.held_out.manifest, np.sort(part)))
        for part in (order[: total // 2], order[total // 2 :])
    ]
    judged = images_to_judge(halves[1], wanted)
    ends = read_views(random_subset(halves[0], judged, seed), real.reading)
    latents = space.encode(ends)
    pairs = list(zip(latents, latents.roll(1, 0), strict=True))

    def middles(kind: PathKind) -> Tensor:
        return space.decode(torch.cat([latent_path(*pair, [0.5], kind) for pair in pairs]))

    white = torch.iinfo(ends.dtype).max
    sets = {MIDDLES: middles(space.path)}
    if space.path == "sphere":
        sets[STRAIGHT] = middles("line")
    sets[CROSS_FADES] = (ends.float() + ends.roll(1, 0).float()) / (2 * white)
    sets[DECODED] = space.decode(latents)
    levels = {name: space.levels(images) for name, images in sets.items()}
    judgement = real._replace(held_out=halves[1]).judge_sets(levels, seed, ceilings=(DECODED,))
    return judgement.judged.report
