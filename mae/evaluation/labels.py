"""Labels of training and test data, and the check that a classifier can be fitted to them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.data.class_matching import renumber
from mae.data.class_names import Names, quoted
from mae.data.manifest import Manifest
from mae.data.required_labels import checked_labels, missing_label, missing_member
from mae.evaluation.features_file import FeatureSet


class DatasetLabels(NamedTuple):
    """Labels of a data set."""

    labels: npt.NDArray[np.int64]
    """[n]"""
    name: Callable[[int], str]
    """number of a row → its name in messages"""
    class_names: Names = ()
    """names of the classes from 0 on; empty: unknown"""
    missing: Callable[[int], str] | None = None
    """number of a row without a label → its description (`missing_label`); None: by its name"""

    def checked(self, key: str) -> npt.NDArray[np.int64]:
        """The labels; UserError, naming `key`, where one is missing."""
        return checked_labels(
            self.labels, key, self.missing or (lambda row: missing_member(self.name(row)))
        )


class ClassNumbers(NamedTuple):
    """Classes of training and test data, numbered from 0 without gaps in the order of labels."""

    count: int
    """number of classes"""
    train: npt.NDArray[np.int64]
    """[n]"""
    test: npt.NDArray[np.int64]
    """[m]"""


def manifest_labels(manifest: Manifest) -> DatasetLabels:
    """Labels of shards."""
    return sample_labels(manifest, np.arange(len(manifest)))


def sample_labels(manifest: Manifest, samples: npt.NDArray[np.int64]) -> DatasetLabels:
    """Labels of the samples of shards with the numbers `samples`."""
    return DatasetLabels(
        manifest.label[samples].astype(np.int64),
        lambda row: manifest.name(int(samples[row])),
        manifest.class_names,
        lambda row: missing_label(manifest, int(samples[row])),
    )


def feature_labels(features: FeatureSet) -> DatasetLabels:
    """Labels of a file of features."""
    return DatasetLabels(features.labels, lambda row: features.names()[row], features.class_names())


def check_labels(
    train: DatasetLabels, test: DatasetLabels, classes: int | None = None
) -> ClassNumbers:
    """Check that a classifier can be fitted to `train` and tested on `test`; number the classes.

    Raises UserError where a label is missing, `train` has fewer than two classes, `test` has a
    class that `train` lacks (by name, where both have class names), or, with `classes`, the
    classes of `train` are not exactly 0, 1 … classes - 1.
    """
    names = train.class_names
    test = test._replace(labels=renumber(test.labels, test.class_names, names, "--test", "--train"))
    for key, one in (("--train", train), ("--test", test)):
        labels = one.checked(key)
        if classes is not None and len(beyond := np.flatnonzero(labels >= classes)):
            raise UserError(
                f"{key}: class {labels[beyond[0]]} is not one of --classes {classes} (0 to "
                f"{classes - 1}), first {one.name(int(beyond[0]))}"
            )
    known, numbers = np.unique(train.labels, return_inverse=True)
    if classes is not None and len(known) != classes:
        missing = np.setdiff1d(np.arange(classes), known)
        raise UserError(
            f"--train: {len(known)} classes, not --classes {classes}: none is of "
            f"{_shown(missing[0], names)}"
        )
    if len(known) < 2:
        raise UserError(
            f"--train: all samples are of class {_shown(known[0], names)}: a classifier needs at "
            "least two"
        )
    if len(unknown := np.setdiff1d(test.labels, known)):
        raise UserError(f"--test: class {_shown(unknown[0], names)} does not occur in --train")
    return ClassNumbers(len(known), numbers, np.searchsorted(known, test.labels))


def _shown(label: int, names: Sequence[str]) -> str:
    """Number of a class, with its name where that is known."""
    return f"{label} ({quoted(names[label : label + 1])})" if label < len(names) else str(label)
