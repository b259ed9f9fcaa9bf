"""Figures of the quality of a map and of vectors, each beside PCA with as many numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.evaluation.pixel_encoders import reduced_size
from mae.similarity.features import Vectors
from mae.similarity.projection import (
    Projection,
    coordinates,
    principal_components,
    principal_places,
)
from mae.similarity.quality import K, agreements, at_unit_length, sampled

NAMES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
WIDTH = 34


def measure(
    projection: Projection,
    vectors: Vectors,
    places: npt.NDArray,
    pixels: Vectors,
    img_size: tuple[int, int],
) -> dict[str, Any]:
    """Figures of the map and of the vectors, each beside PCA with as many numbers.

    `pixels` are of views of `img_size`, reduced.
    """
    chosen = sampled(len(vectors.samples), projection.seed)
    values = at_unit_length(vectors.values[chosen])
    maps = {projection.method: places[chosen]}
    if projection.method != "pca":
        maps["pca"] = principal_places(vectors.values)[chosen]
    labels = vectors.labels[chosen]
    figures: dict[str, Any] = {
        "compared": len(chosen),
        "images": len(vectors.samples),
        "k": min(K, (len(chosen) - 1) // 2),
        "map": {name: one._asdict() for name, one in agreements(values, maps, labels).items()},
    }
    raw = np.asarray(pixels.values, np.float64)
    dimensions = values.shape[1]
    if len(raw) != len(chosen) or np.array_equal(raw, vectors.values[chosen]):
        return figures  # pixels themselves, or an image that only the pixels lack
    principal = principal_components(raw, min(dimensions, raw.shape[1]))
    reduced = {"vectors": values, "pca of pixels": coordinates(raw, principal)}
    found = agreements(raw, reduced, labels)
    size = reduced_size(img_size)
    figures["reduction"] = {
        "dimensions": dimensions,
        "pixels": raw.shape[1],
        "size": list(size),
        "is_reduced": size != tuple(img_size),
        "components": len(principal.basis),
        **{name: one._asdict() for name, one in found.items()},
    }
    return figures


def figure_lines(origin: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the user, of the metadata of a table."""
    figures, feature = origin["figures"], f"{origin['feature']} ({origin['dimensions']})"
    k = figures.get("k", K)
    heads = f"{'trustworthiness':>17}{f'recall of {k}':>14}{'same class':>12}"
    yield f"{f'map in 2 dimensions, of {feature}':{WIDTH}}{heads}"
    for name, one in figures["map"].items():
        yield f"  {NAMES.get(name, name):{WIDTH - 2}}{_numbers(one)}"
    if reduction := figures.get("reduction"):
        title = _pixels(reduction)
        yield f"{title:{WIDTH}}{heads}"
        yield f"  {feature:{WIDTH - 2}}{_numbers(reduction['vectors'])}"
        name = f"PCA of pixels ({reduction['components']})"
        yield f"  {name:{WIDTH - 2}}{_numbers(reduction['pca of pixels'])}"
    if figures["compared"] < figures["images"]:
        numbers = f"{figures['compared']:,} of the {figures['images']:,} images"
        yield f"figures of {numbers}, drawn at random"
    if verdict := _verdict(figures):
        yield verdict


def _pixels(reduction: Mapping[str, Any]) -> str:
    """Size of the pixels that are compared with, and how many numbers they are."""
    height, width = reduction["size"]
    reduced = "reduced to " if reduction["is_reduced"] else ""
    return f"pixels {reduced}{height} × {width} ({reduction['pixels']:,})"


def _numbers(one: Mapping[str, Any]) -> str:
    same = "–" if one["same_class"] is None else f"{one['same_class']:.3f}"
    return f"{one['trustworthiness']:17.3f}{one['recall']:14.3f}{same:>12}"


def _verdict(figures: Mapping[str, Any]) -> str:
    """Line where PCA is at least as good; empty otherwise."""
    maps = figures["map"]
    own = next(iter(maps))
    worse = []
    if own != "pca" and maps[own]["recall"] <= maps["pca"]["recall"]:
        worse.append("the map keeps no more neighbours than PCA: --projection pca is faster")
    if reduction := figures.get("reduction"):
        ours, theirs = reduction["vectors"], reduction["pca of pixels"]
        if ours["recall"] <= theirs["recall"]:
            worse.append(
                "PCA keeps more of the pixels' neighbours than the vectors do, as it must, being "
                "of pixels: classes, not pixels, say which is better (mae knn --baselines)"
            )
        if ours["same_class"] is not None and ours["same_class"] <= theirs["same_class"]:
            worse.append(
                "PCA's neighbours are as often of the same class: train the encoder longer or on "
                "more images"
            )
    return "; ".join(worse)
