"""Warnings about the data of a detector, of `mae anomaly fit`, `score` and `evaluate`."""

import numpy as np

from mae.anomaly.detector import MAIN, Stored
from mae.anomaly.findings import contamination, copies_lines, threshold_shift
from mae.anomaly.fitting import Fitted
from mae.anomaly.images import Scored
from mae.anomaly.looks import Copies, Looks, find_copies, looks_of
from mae.data.images import Images

OWN = "the detector's own images"


def fit_findings(fitted: Fitted, normal: Images, calibration: Images) -> list[str]:
    """Lines on copies between the sets, and on anomalous images among the normal ones."""
    first, second = fitted.looks["normal"], fitted.looks["calibration"]
    found = find_copies(first, second)
    scored, twin = found.first
    pair = ("", "")
    if scored >= 0:
        known = normal.manifest.name(_position(normal, first, twin))
        pair = calibration.manifest.name(int(fitted.calibration.samples[scored])), known
    lines = copies_lines(
        found,
        len(second.look),
        "--calibration",
        "--normal",
        pair,
        "their scores are too small, and so the threshold: divide by object, batch or day",
    )
    for key, images, one in (
        ("--normal", normal, fitted.normal),
        ("--calibration", calibration, fitted.calibration),
    ):
        names = [images.manifest.name(number) for number in one.samples.tolist()]
        lines += contamination(one.scores[MAIN], names, key)
    return lines + threshold_shift(fitted.calibration.scores[MAIN], fitted.threshold)


def _position(images: Images, looks: Looks, row: int) -> int:
    """Number in the manifest of a row of `looks`, which leave out bad images."""
    same = looks_of(images.manifest, np.arange(len(images.manifest)), np.empty(0, np.int64))
    return int((same.content == looks.content[row]).argmax())


def own_copies(stored: Stored, images: Images, scored: Scored) -> Copies | None:
    """Scored images that are among those of the detector; None: it does not know its own."""
    if not stored.looks:
        return None
    content, look = (
        np.concatenate([getattr(one, column) for one in stored.looks.values()])
        for column in ("content", "look")
    )
    return find_copies(
        Looks(content, look), looks_of(images.manifest, scored.samples, scored.looks)
    )


def own_copies_lines(
    found: Copies | None, images: Images, scored: Scored, key: str, remedy: str
) -> list[str]:
    """Line on scored images that are among those of the detector; or none."""
    if found is None or found.first[0] < 0:
        return []
    first = images.manifest.name(int(scored.samples[found.first[0]]))
    effect = f"their scores are too small: {remedy}"
    return copies_lines(found, len(scored.samples), key, OWN, (first, ""), effect)
