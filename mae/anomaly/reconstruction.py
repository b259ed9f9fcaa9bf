"""Scorer `reconstruction`: error of an autoencoder's, or masked autoencoder's, reconstruction."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.anomaly.patch_features import Maps, PatchFeatures
from mae.anomaly.scorer import ScoreMaps, Scorer, Statistics
from mae.anomaly.tiles import Tiling, ViewRule
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.objectives.base import Objective

ROUNDS = 4
"""reconstructions of which the error is the mean, where parts are hidden or noise is added"""
WINDOWS = 16
"""least number of windows along an image's side, as far as they have 2 pixels or more"""
WINDOW = 8
"""maximum side of the windows whose mean error is a patch's, in pixels"""


class ReconstructionError(Scorer):
    """Mean squared error of a patch's reconstruction, as a multiple of that of normal patches."""

    name = "reconstruction"

    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """Number of patches and sum of their errors."""
        total = maps.double().sum().cpu().numpy()
        return {"count": np.array([maps.numel()]), "sum": total[None]}

    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """Mean error of normal patches."""
        mean = statistics["sum"] / statistics["count"]
        return {"mean": torch.from_numpy(np.maximum(mean, 1e-12)).float()}

    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Error of each patch."""
        return maps[:, 0] / parameters["mean"]


def reconstruction_features(
    objective: Objective, bits: int, name: str, sha256: str, tiling: Tiling | None = None
) -> PatchFeatures:
    """Squared errors of `objective.reconstruct`, averaged over overlapping windows; d = 1.

    Where the model hides parts, the hidden parts of the noises of `covering_noises` are disjoint
    and cover the image, and each pixel's error is that of its being hidden; ROUNDS times, with
    seeds that are the same for all images.
    """
    window = max(2, min(WINDOW, min(objective.img_size) // WINDOWS))
    stride = window // 2
    white = 2**bits - 1

    @torch.no_grad()
    def maps(images: Shaped[Tensor, "b c h w"]) -> Maps:
        errors = squared_errors(objective, images, white).mean(1, keepdim=True)
        return F.avg_pool2d(errors, window, stride)

    text = f"{sha256} reconstruction {window} {ROUNDS} {tiling}"
    rule = ViewRule(objective.img_size, (stride, stride), tiling)
    identity = hashlib.sha256(text.encode()).hexdigest()
    return PatchFeatures(name, identity, rule, maps, objective)


def squared_errors(
    objective: Any, images: Shaped[Tensor, "b c h w"], white: int
) -> Float[Tensor, "b c h w"]:
    """Squared errors of the reconstruction, each pixel's while it is hidden, if it ever is."""
    truth = images.float() / white
    total, weight = torch.zeros_like(truth), torch.zeros_like(truth)
    for number in range(ROUNDS):
        word = as_tensor(fold(0, Stream.STATISTICS, number)).to(images.device)
        varies = False
        for noise in objective.covering_noises(images, word.expand(len(images))):
            found = objective.reconstruct(images, noise)
            varies |= found.mask is not None or found.inputs is not None
            mask = torch.ones_like(truth) if found.mask is None else found.mask
            total += (found.pasted - truth).square() * mask
            weight += mask
        if not varies:
            break
    return total / weight
