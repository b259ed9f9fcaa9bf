"""Settings of the objectives that train one of timm's Vision Transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import NonNegative, Positive, Section, Text
from mae.objectives.declaration import Declaration

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


SET_ELSEWHERE = {"img_size", "patch_size", "in_chans", "num_classes", "global_pool", "pretrained"}
"""arguments of timm.create_model that are settings of their own"""


class VitModel(Section):
    """Encoder by its timm name."""

    encoder: str = "vit_base_patch16_224"
    """a plain Vision Transformer of timm"""
    encoder_kwargs: dict[str, float | int | bool] = Field(default_factory=dict)
    """further arguments for timm.create_model, such as embed_dim, depth, num_heads"""
    patch_size: Positive | None = None
    """pixels (default: the encoder's)"""


def refuse_arguments(model: VitModel) -> Iterator[tuple[str, str]]:
    """(key, message) of arguments in `encoder_kwargs` that are settings of their own."""
    for key in sorted(SET_ELSEWHERE & model.encoder_kwargs.keys()):
        yield f"model.encoder_kwargs.{key}", "is set elsewhere (data.img_size and so on)"


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


class ProbeDeclaration(Declaration):
    """Declaration of a probe: a classifier on an encoder that stays as it is."""

    needs_img_size = False
    needs_labels = True
    is_probe = True
    panels = ""

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Settings with the classes of the training data."""
        model = with_classes(frozen_model_of(config), manifest)
        return config.model_copy(update={"model": model})

    def measured(self, config: Config) -> set[str]:
        """Settings that do not decide by themselves."""
        return MEASURED

    def next_steps(self, run: Path) -> list[str]:
        """None: the command that trains it tests it, too."""
        return []

    def history(self, config: Config) -> str:
        """The objective in a few words, for the model cards of what starts from its weights."""
        return f"{self.name} of {frozen_model_of(config).classes} classes"

    def describe_frozen(self, config: Config) -> str:
        """The frozen encoder, in a few words."""
        model = frozen_model_of(config)
        return f"for {model.classes} classes, on {model.encoder}{' untrained' * model.untrained}"


def frozen_model_of(config: Config) -> FrozenModel:
    """The section `model:` of a run of a probe."""
    assert isinstance(config.model, FrozenModel)
    return config.model


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
