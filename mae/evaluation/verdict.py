"""Verdict of an evaluation of frozen features: which baselines the encoder is shown to beat."""

from collections.abc import Mapping, Sequence
from typing import Any

from mae.evaluation.encoders import RAW, UNTRAINED
from mae.evaluation.results import budget_name, difference

NAMES = {RAW: "raw pixels", UNTRAINED: "the untrained encoder"}
"""baselines in words"""
FEW = 1000
"""test images below which an interval of a difference is wide"""


def verdict(report: Mapping[str, Any]) -> str:
    """One line on the differences from the baselines; "" where none were measured.

    A baseline is beaten where the interval of the difference is above 0 for some feature and
    budget of labels; where there is none, the largest difference is named.
    """
    rows = [row for row in report["results"] if row.get("above")]
    others = dict.fromkeys(other for row in rows for other in row["above"])
    if not others:
        return ""
    found = [_about(other, rows) for other in others]
    beaten = [words for is_beaten, words in found if is_beaten]
    if len(beaten) == len(found):
        return f"verdict: better than {' and '.join(beaten)}"
    open_ones = "; ".join(words for is_beaten, words in found if not is_beaten)
    better = f"; better than {' and '.join(beaten)}" if beaten else ""
    images = report["test_images"]
    few = f"; {images:,} test images are few: more narrow the interval" * (images < FEW)
    return f"verdict: {open_ones}{better}. Train longer, or on more images{few}"


def _about(other: str, rows: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Comparison with the baseline `other`: True where a row beats it, and words on it."""
    name = NAMES.get(other, other)
    known = [row for row in rows if other in row["above"]]
    best = max(known, key=lambda row: row["above"][other]["difference"])
    wins = sum(row["above"][other]["interval"][0] > 0 for row in known)
    if wins:
        return True, name + f" (in {wins} of {len(known)} rows)" * (wins < len(known))
    where = f"{best['feature']}, {budget_name(best)}: {difference(best['above'][other])} points"
    is_worse = best["above"][other]["interval"][1] < 0
    return False, f"{'worse than' if is_worse else 'not shown to beat'} {name} ({where})"
