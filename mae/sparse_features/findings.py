"""Figures and findings of a survey: rows of latents, totals beside baselines, in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mae.evaluation.token_pca import variance_figures
from mae.sparse_features.selectivity import best_by_class, evenly, selectivity
from mae.sparse_features.statistics import latent_figures
from mae.sparse_features.survey import Survey

PLACE = 0.5
"""share of a latent's variance explained by the place, above which it fires by place"""
COMMON = 0.5
"""share of the patches, above which a latent fires almost anywhere"""

Row = dict[str, Any]


def latent_rows(found: Survey) -> list[Row]:
    """A row of figures for each latent, by its number."""
    figures = latent_figures(found.arrays)
    columns: dict[str, list[Any]] = {
        "patches": figures.patches.tolist(),
        "images": figures.images.tolist(),
        "mean": figures.mean.tolist(),
        "place": figures.place.tolist(),
    }
    if found.setup.classes:
        chosen = selectivity(found.arrays["latents"])
        columns |= {
            "class": chosen.best.tolist(),
            "auroc": chosen.auroc.tolist(),
            "precision": chosen.precision.tolist(),
        }
    rows = []
    for number in range(len(figures.patches)):
        row = {"latent": number, **{key: values[number] for key, values in columns.items()}}
        row["kind"] = kind_of(row)
        top, images = found.arrays["top"][number], found.arrays["top_images"][number]
        row["top"] = images[top > 0].tolist()
        rows.append(row)
    return rows


def kind_of(row: Mapping[str, Any]) -> str:
    """Mark of a latent: dead, place (fires by place, not by content), common, or none."""
    if row["patches"] == 0:
        return "dead"
    if row["place"] > PLACE:
        return "place"
    return "common" if row["patches"] > COMMON else ""


def totals(found: Survey, rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of all latents together, beside those of PCA."""
    figures = variance_figures(found.setup.pca, found.arrays["variance"])
    kinds = [row["kind"] for row in rows]
    figures |= {
        "images": int(found.arrays["images"][0]),
        "latents": len(rows),
        "dead": kinds.count("dead"),
        "by_place": kinds.count("place"),
        "common": kinds.count("common"),
    }
    if found.setup.classes:
        figures["selectivity"] = class_selectivity(found)
    return figures


def class_selectivity(found: Survey) -> dict[str, Any]:
    """Mean over the classes of the best AUROC: of latents, of PCA, and of drawn labels."""
    latents = selectivity(found.arrays["latents"])
    components = selectivity(found.arrays["components"])
    alive = np.flatnonzero(found.arrays["image_uses"] > 0)
    directions = np.arange(len(components.best))
    chosen = evenly(alive, len(directions))
    drawn = selectivity(found.arrays["latents_drawn"])
    drawn_components = selectivity(found.arrays["components_drawn"])
    images = found.arrays["latents"][0].sum(axis=0)
    has_images = (images > 0) & (images < images.sum())

    def mean(which: Any, numbers: Any) -> float:
        if not len(numbers) or not has_images.any():
            return 0.5
        return float(best_by_class(which, numbers)[has_images].mean())

    return {
        "classes": int(has_images.sum()),
        "all_latents": mean(latents, alive),
        "all_latents_drawn": mean(drawn, alive),
        "compared": len(chosen),
        "latents": mean(latents, chosen),
        "latents_drawn": mean(drawn, chosen),
        "pca": mean(components, directions),
        "pca_drawn": mean(drawn_components, directions),
    }


def words(figures: Mapping[str, Any]) -> Iterator[str]:
    """Sentences on totals that are no better than a baseline, or wasteful; worst first."""
    own, topk = figures["explained"], figures["explained_topk_pca"]
    if own < topk:
        yield (
            f"top-k PCA explains more of the tokens at as many numbers ({topk:.1%} against "
            f"{own:.1%}): the learned directions are no better than the principal components"
        )
    chosen = figures.get("selectivity")
    if chosen and chosen["latents"] <= chosen["pca"]:
        yield (
            f"principal components tell classes better than as many latents (mean best AUROC "
            f"{chosen['pca']:.3f} against {chosen['latents']:.3f})"
        )
    alive = figures["latents"] - figures["dead"]
    if figures["dead"] > 0.1 * figures["latents"]:
        yield (
            f"{figures['dead'] / figures['latents']:.0%} of the latents fire in none of these "
            "images: fewer latents (model.expansion), or a longer run"
        )
    if alive and figures["by_place"] > 0.1 * alive:
        yield (
            f"{figures['by_place'] / alive:.0%} of the others fire by place, not by content: an "
            "encoder that mixes its positions into the tokens"
        )
