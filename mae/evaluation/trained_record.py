"""What the evaluations that train a head share: class numbers, and what goes on record."""

import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import mae
from mae.data.images import Images
from mae.data.manifest import Manifest, require_labels
from mae.errors import UserError
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.protocol import PACKAGES


class ClassNumbers(NamedTuple):
    """The classes of both parts, numbered from 0 without gaps, in the order of their labels."""

    count: int
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def number_classes(train: Manifest, test: Manifest) -> ClassNumbers:
    """UserError for samples without labels, test classes that training lacks, a single class."""
    labels, test_labels = require_labels(train, "--train"), require_labels(test, "--test")
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(unknown := np.setdiff1d(test_labels, classes)):
        raise UserError(f"--test: class {unknown[0]} does not occur in --train")
    if len(classes) < 2:
        raise UserError(f"--train: all samples are of class {classes[0]}; there is nothing to tell")
    return ClassNumbers(len(classes), numbers, np.searchsorted(classes, test_labels))


def provenance(encoder: FrozenEncoder, train: Images, test: Images) -> dict[str, Any]:
    """What was measured on, when, and with which versions."""
    return {
        "train_images": len(train.manifest),
        "test_images": len(test.manifest),
        "train": {"data": train.manifest.fingerprint},
        "test": {"data": test.manifest.fingerprint},
        "encoder": {
            "encoder": encoder.sha256,
            "img_size": "x".join(map(str, encoder.img_size)),
            "crop_pct": f"{encoder.crop_pct:g}",
            "pixels": encoder.pixels,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mae": mae.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def percents(values: tuple[float, float] | list[float]) -> str:
    """An interval for people: `41.2–47.9`."""
    low, high = values
    return f"{100 * low:.1f}–{100 * high:.1f}"
