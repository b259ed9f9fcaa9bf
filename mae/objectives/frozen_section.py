"""Settings of the objectives that train a classifier on a frozen encoder."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mae.errors import UserError
from mae.section import NonNegative, Section, Text

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


class FrozenModel(Section):
    """A frozen encoder, and the classes that a head on it learns."""

    encoder: Path = Path()
    """run, checkpoint or export folder of the encoder"""
    untrained: bool = False
    """its architecture freshly initialised, instead of its weights"""
    sha256: Text = ""
    """of the encoder's weights, which must still be these when the run is resumed"""
    classes: NonNegative = 0
    """number of classes (0: as many as the training data has)"""
    labels: tuple[int, ...] = ()
    """label of each class, ascending (none: 0, 1, … are both)"""


MEASURED = {"model.encoder", "model.classes", "model.labels"}
"""settings that the training data decides, and the encoder's folder, for which sha256 speaks"""


def with_classes(model: FrozenModel, manifest: "Manifest") -> FrozenModel:
    """The section with its classes; UserError where `manifest` has others, or no labels."""
    from mae.data.manifest import require_labels

    found = np.unique(require_labels(manifest, "data.train"))
    if model.classes:
        known = np.array(model.labels or range(model.classes))
        if len(unknown := np.setdiff1d(found, known)):
            raise UserError(f"data.train: label {unknown[0]} is none of model.labels")
        return model
    return model.model_copy(update=classes_of(found.tolist()))


def classes_of(labels: list[int]) -> dict[str, int | tuple[int, ...]]:
    """`classes` and `labels` of the section, for the different labels in ascending order."""
    is_plain = labels == list(range(len(labels)))
    return {"classes": len(labels), "labels": () if is_plain else tuple(labels)}
