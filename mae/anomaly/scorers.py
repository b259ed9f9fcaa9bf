"""Scorers of patches: Gaussians, principal components, nearest neighbours; all scorers by name."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mae.anomaly.decoder import Decoder
from mae.anomaly.patch_features import Maps
from mae.anomaly.reconstruction import ReconstructionError
from mae.anomaly.scorer import ScoreMaps, Scorer, Statistics
from mae.base.errors import UserError
from mae.base.hashing import Stream, fold

DIMENSIONS = 64
"""maximum number of feature dimensions per position of `gaussian`, chosen at random"""
RIDGE = 0.01
"""share of the mean variance that is added to variances"""
LARGEST = 2**26
"""maximum number of sums of products that `gaussian` keeps, 8 bytes each"""
EXPLAINED = 0.99
"""share of the variance that the components of `pca` explain"""
CORESET = 10_000
"""maximum number of patches that `knn` keeps"""
CELLS = 2**20
"""distances held at a time: more of them leave the processor's cache"""


class Gaussian(Scorer):
    """Mahalanobis distance from a Gaussian of each position (Defard et al. 2020, PaDiM, section 3).

    For images of aligned objects or even surfaces.
    """

    name = "gaussian"
    is_positional = True

    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """Counts, sums and sums of products of each position, of some dimensions."""
        kept = chosen_dimensions(maps.shape[1], seed)
        positions = maps.shape[2] * maps.shape[3]
        if positions * len(kept) ** 2 > LARGEST:
            raise UserError(
                f"--scorer gaussian: {positions:,} positions of {len(kept)} numbers are too many: "
                "use fewer tiles, or --scorer pca or knn"
            )
        rows = maps[:, kept].double().flatten(2).permute(2, 0, 1)  # [positions b d]
        return {
            "count": np.array([len(maps)]),
            "kept": kept.numpy(),
            "grid": np.array(maps.shape[2:]),
            "sum": rows.sum(1).cpu().numpy(),
            "products": (rows.transpose(1, 2) @ rows).cpu().numpy(),
        }

    def merge(self, one: Statistics, other: Statistics) -> Statistics:
        """Sums of both."""
        added = {name: one[name] + other[name] for name in ("count", "sum", "products")}
        return {**one, **added}

    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """Mean, and inverse of the covariance's Cholesky factor, of each position."""
        count = int(statistics["count"][0])
        if count < 2:
            raise UserError("--normal: one image; a detector needs two or more")
        mean = statistics["sum"] / count
        covariance = (statistics["products"] - count * mean[:, :, None] * mean[:, None]) / (
            count - 1
        )
        variances = np.trace(covariance, axis1=1, axis2=2) / covariance.shape[1]
        ridge = RIDGE * np.maximum(variances, variances.mean()) + 1e-9
        covariance += ridge[:, None, None] * np.eye(covariance.shape[1])
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        return {
            "kept": torch.from_numpy(statistics["kept"]),
            "mean": torch.from_numpy(mean).float(),
            "whiten": torch.from_numpy(inverse).float(),
        }

    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Mahalanobis distance."""
        rows = maps[:, parameters["kept"]].flatten(2).permute(2, 0, 1)
        centred = rows - parameters["mean"][:, None]
        white = centred @ parameters["whiten"].transpose(1, 2)
        return white.norm(dim=2).T.unflatten(1, maps.shape[2:])


class Pca(Scorer):
    """Distance of a patch from the principal components of all normal patches."""

    name = "pca"

    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """Count, sum and sum of products of all patches."""
        rows = maps.double().movedim(1, -1).flatten(0, 2)
        return {
            "count": np.array([len(rows)]),
            "sum": rows.sum(0).cpu().numpy(),
            "products": (rows.T @ rows).cpu().numpy(),
        }

    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """Mean, and the components that explain EXPLAINED of the variance."""
        count, total = int(statistics["count"][0]), statistics["sum"]
        mean = total / count
        covariance = statistics["products"] / count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        share = np.cumsum(values[::-1].clip(0)) / max(values.clip(0).sum(), 1e-300)
        kept = min(len(values) - 1, int(np.searchsorted(share, EXPLAINED)) + 1)
        basis = vectors[:, ::-1][:, :kept].T.copy()
        return {"mean": torch.from_numpy(mean).float(), "basis": torch.from_numpy(basis).float()}

    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Length of the part that the components leave."""
        centred = maps.movedim(1, -1) - parameters["mean"]
        basis = parameters["basis"]
        return (centred - centred @ basis.T @ basis).norm(dim=-1)


class Knn(Scorer):
    """Distance to the nearest of some normal patches (Roth et al. 2022, PatchCore, section 3.3).

    Patches are kept at random, at most CORESET of them: each has a hash, the smallest stay.
    """

    name = "knn"

    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """The patches with the smallest hashes."""
        rows = maps.movedim(1, -1).flatten(0, 2)
        places = np.arange(maps.shape[2] * maps.shape[3])
        numbers = np.asarray(samples, np.int64)
        words = fold(seed, Stream.STATISTICS, numbers[:, None], places[None]).ravel()
        chosen = np.argsort(words, kind="stable")[:CORESET]
        return {"word": words[chosen], "patch": rows[torch.from_numpy(chosen)].cpu().numpy()}

    def merge(self, one: Statistics, other: Statistics) -> Statistics:
        """The smallest hashes of both."""
        words = np.concatenate([one["word"], other["word"]])
        chosen = np.argsort(words, kind="stable")[:CORESET]
        return {
            "word": words[chosen],
            "patch": np.concatenate([one["patch"], other["patch"]])[chosen],
        }

    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """The kept patches."""
        return {"patches": torch.from_numpy(np.ascontiguousarray(statistics["patch"])).float()}

    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Euclidean distance."""
        rows, patches = maps.movedim(1, -1).flatten(0, 2), parameters["patches"]
        middle = patches.mean(0)
        near = patches - middle  # shorter vectors: less rounding in the products
        lengths = near.square().sum(1)
        # A graph for any batch has no loop over its parts.
        most = max(1, CELLS // len(patches))
        distances = []
        for part in [rows] if torch.compiler.is_exporting() else rows.split(most):
            nearest = (lengths - 2 * (part - middle) @ near.T).min(1).indices
            distances.append((part - patches[nearest]).norm(dim=1))
        return torch.cat(distances).unflatten(0, (maps.shape[0], *maps.shape[2:]))


SCORERS: dict[str, Scorer] = {
    one.name: one for one in (Gaussian(), Pca(), Knn(), Decoder(), ReconstructionError())
}


def chosen_dimensions(count: int, seed: int) -> Tensor:
    """At most DIMENSIONS random dimensions of `count`, ascending."""
    words = fold(seed, Stream.STATISTICS, np.arange(count))
    return torch.from_numpy(np.sort(np.argsort(words, kind="stable")[:DIMENSIONS]))
