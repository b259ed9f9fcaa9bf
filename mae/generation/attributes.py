"""Attribute vectors: directions in the latent space from labelled images.

The mean latent of the images of a class, minus the mean of those without it (Larsen et al. 2016,
arXiv:1512.09300, section 4.2; White 2016, arXiv:1609.04468, section 3).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.class_names import Names, quoted
from mae.data.labels import NO_LABEL
from mae.generation.distances import FeatureRows

CHUNK = 4096
"""rows summed at a time"""

LEAST = 2
"""smallest number of images with and without the attribute"""

Labels = npt.NDArray[np.int64]


class Attribute(NamedTuple):
    """Class that an edit adds, and the class that it replaces, if any."""

    target: int
    source: int | None
    class_names: Names = ()

    @property
    def classes(self) -> list[int]:
        """Classes of the edit: the one added, and the one replaced, if any."""
        return [self.target, *([] if self.source is None else [self.source])]

    def name(self, label: int) -> str:
        """Name of a class; its number where it has none."""
        return printable(self.class_names[label]) if label < len(self.class_names) else str(label)

    def __str__(self) -> str:
        """The edit in words."""
        if self.source is None:
            return self.name(self.target)
        return f"{self.name(self.target)} instead of {self.name(self.source)}"

    def has(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Images [n] with the attribute."""
        return labels == self.target

    def lacks(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Images [n] without it: of the replaced class, or of all other classes."""
        if self.source is not None:
            return labels == self.source
        return (labels != self.target) & (labels != NO_LABEL)


def parse_attribute(
    target: str, source: str | None, labels: Labels, class_names: Names
) -> Attribute:
    """Classes from their names, or numbers where no class has such a name.

    Raises UserError where there is no such class among `labels`, or both are the same.
    """
    if not (labels != NO_LABEL).any():
        raise UserError("--direction: no image has a class, and a direction needs labelled images")
    first = class_number(target, "--attribute", labels, class_names)
    second = None if source is None else class_number(source, "--from", labels, class_names)
    if first == second:
        raise UserError(f"--from: {printable(str(source))} is the class of --attribute")
    return Attribute(first, second, class_names)


def class_number(name: str, key: str, labels: Labels, class_names: Names) -> int:
    """Number of the class `name`; UserError, naming the option `key`, where it does not occur."""
    if class_names.count(name) > 1:
        raise UserError(f"{key}: several classes are called {quoted([name])}: give its number")
    known = np.unique(labels[labels != NO_LABEL]).tolist()
    if name in class_names:
        number = list(class_names).index(name)
    else:
        number = int(name) if name.isdecimal() else -1
    if number in known:
        return number
    names = [class_names[one] if one < len(class_names) else str(one) for one in known]
    raise UserError(
        f"{key}: no image of --direction has the class {quoted([name])}; classes: {quoted(names)}"
    )


class Direction(NamedTuple):
    """Attribute vector."""

    vector: Tensor
    """[n], float32"""
    with_it: int
    """images with the attribute"""
    without: int


def attribute_direction(latents: FeatureRows, labels: Labels, attribute: Attribute) -> Direction:
    """Mean latent [n] of rows with the attribute, minus that of rows without, summed in float64.

    Raises UserError where either are fewer than LEAST.
    """
    sums, counts = [], []
    for rows, what in ((attribute.has(labels), "with"), (attribute.lacks(labels), "without")):
        chosen = np.flatnonzero(rows)
        if len(chosen) < LEAST:
            raise UserError(
                f"--direction: {len(chosen)} images {what} the attribute {attribute}: at least "
                f"{LEAST} are needed"
            )
        total = np.zeros(latents.shape[1])
        for start in range(0, len(chosen), CHUNK):
            total += latents[chosen[start : start + CHUNK]].astype(np.float64).sum(0)
        sums.append(total / len(chosen))
        counts.append(len(chosen))
    vector = torch.from_numpy((sums[0] - sums[1]).astype(np.float32))
    return Direction(vector, *counts)
