"""Localisation of defects, from score maps and masks: AUPRO and pixel AUROC, also by defect size.

AUPRO is the area under the per-region overlap, the mean over connected regions of the share of
their pixels that are above a threshold, as a function of the false-positive rate of normal pixels,
up to a rate of LIMIT and divided by it (Bergmann et al. 2020, "Uninformed Students", section 4.2).

A mean of areas is the area of a mean.  So only the scores of normal pixels are counted, and those
of each region, in steps of a thousandth: memory does not grow with the images' size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from mae.anomaly.threshold import Range, exact_interval

LIMIT = 0.3
"""largest false-positive rate"""
DROPPED = 13
"""last bits of a float32 score that are dropped: 10 bits of the fraction remain"""
GROUPS = 64
"""groups that normal images are divided into for the bootstrap"""
RESAMPLES, AT_ONCE = 300, 50
SIZES = ("small", "medium", "large")
"""terciles of the regions' areas"""

Counts = dict[str, npt.NDArray[Any]]
"""`normal` int64 [n 3]: group, step, number of normal pixels; `region` float64 [r 2]: sample, area
as a share of the image; `pixel` int64 [m 3]: region, step, number of its pixels"""
Values = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Area under a curve, with its interval."""

    value: float
    interval: Range
    """95 %, bootstrap over images"""


def steps(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Numbers that are ordered as the non-negative `scores`, equal where they hardly differ."""
    return (scores.astype(np.float32).view(np.uint32) >> DROPPED).astype(np.int64)


def count_pixels(
    sample: int, scores: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]
) -> Counts:
    """Counts of one image: scores [h w] of its pixels, and the mask [h w] of its defects.

    Defects that touch at corners are one region.
    """
    found = steps(scores)
    numbers, regions = ndimage.label(mask, structure=np.ones((3, 3)))
    pixels = []
    for region in range(regions):
        step, number = np.unique(found[numbers == region + 1], return_counts=True)
        pixels.append(np.stack([np.full(len(step), region), step, number], 1))
    areas = np.bincount(numbers.ravel(), minlength=regions + 1)[1:] / mask.size
    step, number = np.unique(found[~mask], return_counts=True)
    normal = np.stack([np.full(len(step), sample % GROUPS), step, number], 1)
    return {
        "normal": normal.astype(np.int64),
        "region": np.stack([np.full(regions, sample), areas], 1).astype(np.float64),
        "pixel": np.concatenate([np.empty((0, 3), np.int64), *pixels]).astype(np.int64),
    }


def merged(parts: Sequence[Counts]) -> Counts:
    """Counts of several images or parts, in their order."""
    starts = np.cumsum([0, *(len(part["region"]) for part in parts)])
    pixels = [
        part["pixel"] + np.array([start, 0, 0]) for part, start in zip(parts, starts, strict=False)
    ]
    normal = np.concatenate([part["normal"] for part in parts])
    keys, where = np.unique(normal[:, :2], axis=0, return_inverse=True)
    totals = np.bincount(where.ravel(), weights=normal[:, 2]).astype(np.int64)
    return {
        "normal": np.concatenate([keys, totals[:, None]], 1),
        "region": np.concatenate([part["region"] for part in parts]),
        "pixel": np.concatenate(pixels),
    }


class Localisation:
    """Measures of one member's maps on images with masks."""

    def __init__(self, counts: Counts, kept: npt.NDArray[np.int64] | None = None) -> None:
        """`counts` of all images; regions of the samples `kept`, by default of all, at least one.

        Normal pixels are those of all images.
        """
        if kept is not None:
            counts = regions_of(counts, kept)
        normal, pixel = counts["normal"], counts["pixel"]
        self.samples = counts["region"][:, 0].astype(np.int64)
        self.areas: Values = counts["region"][:, 1]
        known = np.unique(np.concatenate([normal[:, 1], pixel[:, 1]]))
        self.normal = _table(normal[:, 0], np.searchsorted(known, normal[:, 1]), normal[:, 2])
        shape = (len(self.areas), len(known))
        places = (pixel[:, 0], np.searchsorted(known, pixel[:, 1]))
        self.pixels = sparse.csr_array((pixel[:, 2].astype(float), places), shape=shape)
        self.normal.resize(self.normal.shape[0], len(known))

    def aupro(self, chosen: npt.NDArray[np.bool_] | None = None, seed: int = 0) -> Curve:
        """AUPRO of the regions `chosen`, by default of all."""
        regions = np.arange(len(self.areas)) if chosen is None else np.flatnonzero(chosen)
        return self._curve(below_limit, regions, np.ones(len(regions)), seed)

    def pixel_auroc(self, seed: int = 0) -> Curve:
        """Probability that a pixel of a defect has a larger score than a normal one."""
        sizes = np.asarray(self.pixels.sum(1)).ravel()
        return self._curve(larger_than_normal, np.arange(len(sizes)), sizes, seed)

    def _curve(
        self,
        of_steps: Callable[[Values], Values],
        regions: npt.NDArray[np.int64],
        sizes: Values,
        seed: int,
    ) -> Curve:
        """Mean over `regions`, weighted by `sizes`, of what `of_steps` gives for their pixels.

        The bootstrap draws images with defects, and groups of images with normal pixels.
        """
        rows: Any = self.pixels[regions]
        rows = sparse.diags_array(1 / rows.sum(1)) @ rows
        _, image = np.unique(self.samples[regions], return_inverse=True)
        draws = np.random.default_rng(seed)
        groups, images = (
            np.vstack([np.ones(count), draws.multinomial(count, np.ones(count) / count, RESAMPLES)])
            for count in (self.normal.shape[0], int(image.max()) + 1)
        )
        means = []
        for start in range(0, RESAMPLES + 1, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            areas = rows @ of_steps(groups[part] @ self.normal).T
            weights = images[part].T[image] * sizes[:, None]
            means.append((areas * weights).sum(0) / weights.sum(0))
        value, *drawn = np.concatenate(means)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Curve(float(value), Range(float(low), float(high)))

    def by_size(self, is_found: Mapping[int, bool], seed: int = 0) -> dict[str, dict[str, Any]]:
        """AUPRO and detection for terciles of the regions' areas; empty for less than 6 regions.

        `is_found`: decision on each image.  An image counts where its largest region does.
        """
        if len(self.areas) < 2 * len(SIZES):
            return {}
        first, second = np.quantile(self.areas, [1 / 3, 2 / 3])
        tercile = (self.areas > first).astype(int) + (self.areas > second)
        largest: dict[int, int] = {}
        for region in np.argsort(self.areas, kind="stable").tolist():
            largest[int(self.samples[region])] = int(tercile[region])
        rows = {}
        for number, name in enumerate(SIZES):
            chosen = tercile == number
            if not chosen.any():
                continue
            found = [is_found[sample] for sample, one in largest.items() if one == number]
            curve = self.aupro(chosen, seed)
            rows[name] = {
                "regions": int(chosen.sum()),
                "area": [float(self.areas[chosen].min()), float(self.areas[chosen].max())],
                "aupro": curve.value,
                "interval": list(curve.interval),
                "images": len(found),
                "detected": int(sum(found)),
                "detection_interval": list(exact_interval(sum(found), len(found))),
            }
        return rows


def localisation_row(
    counts: Counts, is_found: Mapping[int, bool], seed: int, *, by_size: bool
) -> dict[str, Any]:
    """Entries of a member's row, of the images in `is_found`, which has the decision on each."""
    found = Localisation(counts, np.array(list(is_found)))
    aupro, auroc = found.aupro(seed=seed), found.pixel_auroc(seed)
    row = {
        "regions": len(found.areas),
        "aupro": aupro.value,
        "aupro_interval": list(aupro.interval),
        "pixel_auroc": auroc.value,
        "pixel_auroc_interval": list(auroc.interval),
    }
    return row | ({"by_size": found.by_size(is_found, seed)} if by_size else {})


def below_limit(normal: Values) -> Values:
    """Area that a pixel of a region adds by its step, from numbers of normal pixels [n steps].

    The share of LIMIT above the pixel's false-positive rate; where its step holds normal pixels,
    too, the curve is linear between the rates before and after.
    """
    total = normal.sum(1, keepdims=True)
    after = normal[:, ::-1].cumsum(1)[:, ::-1] / total
    before = after - normal / total
    inside = np.clip(LIMIT - before, 0, None)
    part = inside**2 / (2 * np.maximum(after - before, 1e-300))
    return np.where(after <= LIMIT, LIMIT - (before + after) / 2, part) / LIMIT


def larger_than_normal(normal: Values) -> Values:
    """Share of normal pixels below each step, those at it by half, from their numbers [n steps]."""
    return (normal.cumsum(1) - normal / 2) / normal.sum(1, keepdims=True)


def regions_of(counts: Counts, kept: npt.NDArray[np.int64]) -> Counts:
    """Counts without the regions of other samples than `kept`."""
    flags = np.isin(counts["region"][:, 0], kept)
    number = np.cumsum(flags) - 1
    pixel = counts["pixel"][flags[counts["pixel"][:, 0]]]
    renumbered = np.stack([number[pixel[:, 0]], pixel[:, 1], pixel[:, 2]], 1)
    return {**counts, "region": counts["region"][flags], "pixel": renumbered}


def _table(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> Any:
    """Sparse table of the groups that occur [groups steps]."""
    _, group = np.unique(rows, return_inverse=True)
    return sparse.csr_array((values.astype(float), (group.ravel(), columns)))
