"""Statistics of latents over images, in memory that does not grow with their number."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.evaluation.token_pca import TokenPca, variance_sums
from mae.objectives.capabilities import PatchLatents
from mae.sparse_features.selectivity import Edges, histogram

Arrays = dict[str, npt.NDArray[Any]]


class Setup(NamedTuple):
    """Principal components, bins and limits of the statistics, found on some images before."""

    pca: TokenPca
    edges: Edges
    """of the latents' maxima"""
    pca_edges: Edges
    """of the maxima of the principal components, in both directions"""
    classes: int
    """number of classes; 0: no selectivity"""
    top: int
    """images that are kept for each latent"""


class Statistics:
    """Sums and largest images of each latent; a part's `arrays` are merged in the parts' order."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.arrays: Arrays = {}

    def add(self, found: PatchLatents, numbers: Tensor, labels: npt.NDArray[np.int64]) -> None:
        """Add images by their `numbers` in the manifest.

        `labels` [2 b]: class of each image, and one drawn for it; -1: none.
        """
        latents = found.latents.detach().float().cpu()
        tokens, again = (one.detach().flatten(0, 1).cpu().double() for one in found[1:3])
        values = latents.double().numpy()
        maxima = latents.amax(dim=1)
        arrays: Arrays = {
            "variance": variance_sums(self.setup.pca, tokens, again, latents.flatten(0, 1) > 0),
            "images": np.array([len(latents)]),
            "uses": (values > 0).sum(axis=0).T,
            "sums": values.sum(axis=0).T,
            "squares": np.square(values).sum(axis=(0, 1)),
            "image_uses": (values > 0).any(axis=1).sum(axis=0),
            "top": maxima.T.numpy(),
            "top_images": numbers.expand(maxima.shape[1], -1).numpy(),
        }
        if self.setup.classes:
            components = component_maxima(self.setup.pca, tokens.unflatten(0, latents.shape[:2]))
            for name, largest, edges in (
                ("latents", maxima, self.setup.edges),
                ("components", components, self.setup.pca_edges),
            ):
                bins = edges.of(largest.numpy())
                for row, kind in enumerate(("", "_drawn")):
                    is_known = labels[row] >= 0
                    arrays[f"{name}{kind}"] = histogram(
                        bins[is_known], labels[row][is_known], edges.bins, self.setup.classes
                    )
        self.merge(arrays)

    def merge(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add the arrays of further images."""
        if not self.arrays:
            sums = {name: values for name, values in arrays.items() if "top" not in name}
            self.arrays = {name: _widened(values) for name, values in sums.items()}
            self._keep_largest(arrays["top"], arrays["top_images"])
            return
        for name, values in arrays.items():
            if "top" not in name:
                self.arrays[name] += values
        self._keep_largest(
            np.concatenate([self.arrays["top"], arrays["top"]], axis=1),
            np.concatenate([self.arrays["top_images"], arrays["top_images"]], axis=1),
        )

    def _keep_largest(self, values: npt.NDArray[Any], images: npt.NDArray[Any]) -> None:
        order = np.argsort(-values, axis=1, kind="stable")[:, : self.setup.top]
        self.arrays["top"] = np.take_along_axis(values, order, axis=1)
        self.arrays["top_images"] = np.take_along_axis(images, order, axis=1)


def component_maxima(pca: TokenPca, tokens: Tensor) -> Tensor:
    """Maxima [b 2d] of the principal components of tokens [b t d], in both directions."""
    components = (tokens - pca.mean) @ pca.basis.T
    return torch.cat([components.amax(dim=1), (-components).amax(dim=1)], dim=1)


def stored(arrays: Arrays) -> Arrays:
    """Arrays as safetensors stores them, counts in half the size where they fit."""
    kept = {}
    for name, values in arrays.items():
        is_small = values.dtype == np.int64 and values.max(initial=0) < 2**31
        values = values.astype(np.int32) if is_small else values
        kept[name] = np.ascontiguousarray(values)
    return kept


def _widened(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy in which sums of any number of images fit."""
    return values.astype(np.int64 if values.dtype.kind == "i" else np.float64)


class LatentFigures(NamedTuple):
    """Figures of each of n latents."""

    patches: npt.NDArray[np.float64]
    """share of patches in which it fires"""
    images: npt.NDArray[np.float64]
    """share of images in which it fires"""
    mean: npt.NDArray[np.float64]
    """mean size where it fires"""
    place: npt.NDArray[np.float64]
    """share of its variance that the patch's place explains; 0 for one place"""


def latent_figures(arrays: Arrays) -> LatentFigures:
    """Figures from the totals of `Statistics`."""
    images, uses, sums = int(arrays["images"][0]), arrays["uses"], arrays["sums"]
    places = uses.shape[1]
    fired = uses.sum(axis=1)
    total = sums.sum(axis=1)
    centre = np.square(total) / (images * places)
    between = np.square(sums).sum(axis=1) / images - centre
    variance = arrays["squares"] - centre
    is_varied = variance > 1e-9 * np.maximum(arrays["squares"], 1e-300)
    return LatentFigures(
        patches=fired / (images * places),
        images=arrays["image_uses"] / images,
        mean=total / np.maximum(fired, 1),
        place=np.where(is_varied, between / np.where(is_varied, variance, 1), 0.0).clip(0, 1),
    )
