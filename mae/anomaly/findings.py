"""Findings on the data of a detector: copies, contamination, drift; each a line with a remedy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from mae.anomaly.looks import Copies
from mae.anomaly.threshold import Range, Scores, Threshold, conformal_threshold, p_values
from mae.base.errors import UserError

FAR = 3.0
"""robust standard deviations from which a score belongs to the tail"""
GAUSSIAN = float(stats.norm.sf(FAR))
"""share of a Gaussian's tail"""
EXCESS = 3.0
"""multiple of it from which the tail is too long"""
CHANCE = 0.001
"""probability below which chance is no explanation"""
SHIFT = 0.1
"""share by which the threshold falls without the tail, from which anomalies may have set it"""


class Tail(NamedTuple):
    """Scores far above the others."""

    flags: npt.NDArray[np.bool_]
    """[n] the scores of the tail"""
    expected: float
    """their number if scores were Gaussian"""
    is_long: bool
    """more than EXCESS times as many, and chance does not explain it"""


def tail(scores: Scores) -> Tail:
    """Scores [n] more than FAR robust standard deviations above the median (by the MAD).

    On a logarithmic scale, on which the scores of normal images are nearly symmetric.
    """
    values = np.log(np.maximum(scores, 1e-12))
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle))
    flags = values > middle + FAR * max(deviation, 1e-6)
    count, rate = int(flags.sum()), EXCESS * GAUSSIAN
    is_long = count > rate * len(scores) and stats.binom.sf(count - 1, len(scores), rate) < CHANCE
    return Tail(flags, GAUSSIAN * len(scores), bool(is_long))


def contamination(scores: Scores, names: Sequence[str], key: str) -> list[str]:
    """Line on images among the normal ones, called `key`, that score as anomalies do; or none."""
    found = tail(scores)
    if not found.is_long:
        return []
    order = np.argsort(-scores, kind="stable")
    count = int(found.flags.sum())
    return [
        f"{key}: {count:,} of {len(scores):,} images score far above the others, where "
        f"{found.expected:.1f} are expected: they may be anomalous: look at them and take such "
        f"out, first {', '.join(names[i] for i in order[: min(3, count)].tolist())}"
    ]


def threshold_shift(scores: Scores, threshold: Threshold) -> list[str]:
    """Line on a threshold that a few large calibration scores have set; or none."""
    kept = scores[~tail(scores).flags]
    try:
        without = conformal_threshold(kept, threshold.alpha)
    except UserError:
        return []
    fall = 1 - without.value / threshold.value if threshold.value > 0 else 0.0
    if fall <= SHIFT:
        return []
    return [
        f"--calibration: without its {len(scores) - len(kept):,} largest scores the threshold "
        f"would be {without.value:.4g} instead of {threshold.value:.4g}: if these images are "
        "anomalous, take them out, or anomalies like them will pass"
    ]


class Drift(NamedTuple):
    """Comparison of the scores of new images with those of the calibration."""

    alarms: int
    expected: Range
    """99.8 % range of their number, if all images are normal and like those of the calibration"""
    median_p: float
    """median p-value; near .5 for such images"""
    distance: float
    """largest difference of the cumulative distributions (Kolmogorov and Smirnov)"""
    probability: float
    """of a distance as large by chance"""

    def record(self) -> dict[str, Any]:
        """Entries of a report."""
        return self._asdict() | {"expected": list(self.expected)}

    @property
    def line(self) -> str:
        """The numbers in words."""
        return (
            f"p-values: median {self.median_p:.2g} (of images like those of the calibration .5); "
            f"distance of the distributions {self.distance:.2f}, by chance {self.probability:.1g}"
        )


def drift(scores: Scores, calibration: Scores, threshold: Threshold) -> Drift:
    """Comparison of `scores` [m] with those of the calibration [n]."""
    test = stats.ks_2samp(scores, calibration)
    return Drift(
        int((scores > threshold.value).sum()),
        threshold.alarm_range(len(scores), 1 - 2 * CHANCE),
        float(np.median(p_values(scores, calibration))),
        float(test.statistic),
        float(test.pvalue),
    )


def drift_lines(found: Drift, count: int) -> list[str]:
    """Line on new images that are unlike those of the calibration; or none."""
    if found.alarms > found.expected.high:
        return [
            f"{found.alarms:,} of {count:,} images are above the threshold, where normal ones give "
            f"{found.expected.low:.0f} to {found.expected.high:.0f}: many are anomalous, or all "
            "have changed (camera, light, product): look at the page; if they are normal, "
            "calibrate again with such images"
        ]
    if found.probability < CHANCE:
        way = "larger" if found.median_p < 0.5 else "smaller"
        return [
            f"the scores are {way} than those of the calibration (distance {found.distance:.2f}, "
            f"by chance {found.probability:.0e}), though no more are above the threshold: the "
            "images have changed: calibrate again with some of them"
        ]
    return []


def copies_lines(
    found: Copies, total: int, key: str, of: str, pair: tuple[str, str], effect: str
) -> list[str]:
    """Line on images of `key` that are among `of`; `pair`: the first, and its twin if known."""
    if not found.exact + found.near:
        return []
    kinds = [f"{found.exact:,} byte for byte"] * bool(found.exact)
    kinds += [f"{found.near:,} nearly equal"] * bool(found.near)
    like = f", like {pair[1]}" if pair[1] else ""
    return [
        f"{key}: {found.exact + found.near:,} of {total:,} images are among {of} too "
        f"({', '.join(kinds)}; first {pair[0]}{like}): {effect}"
    ]
