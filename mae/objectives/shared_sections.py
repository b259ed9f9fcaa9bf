"""Settings that several objectives share: timm encoder, frozen encoder; declaration of a probe."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.config.types import EncoderArgument, NonNegative, Positive, Section, Text
from mae.objectives.declaration import Declaration

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


SET_ELSEWHERE = {"img_size", "patch_size", "in_chans", "num_classes", "global_pool", "pretrained"}
"""arguments of timm.create_model that follow from other settings"""


class VitModel(Section):
    """Vision Transformer of timm."""

    encoder: str = "vit_base_patch16_224"
    """timm name of the encoder: a Vision Transformer (mae recipes encoders lists them)"""
    encoder_kwargs: dict[str, EncoderArgument] = Field(default_factory=dict)
    """further arguments of timm.create_model, such as embed_dim, depth, num_heads"""
    patch_size: Positive | None = None
    """side of a patch in pixels (default: the encoder's)"""


def refuse_arguments(model: VitModel) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for each argument in `encoder_kwargs` that another setting decides."""
    for key in sorted(SET_ELSEWHERE & model.encoder_kwargs.keys()):
        yield f"model.encoder_kwargs.{key}", "is set elsewhere (data.img_size and so on)"


def patch_count(model: VitModel, img_size: tuple[int, int] | None) -> int | None:
    """Patches of an image, by the sizes in timm's name where they are not set; None: unknown."""
    return count_patches(model.encoder, model.patch_size, img_size)


def count_patches(
    encoder: str, patch_size: int | None, img_size: tuple[int, int] | None
) -> int | None:
    """Patches of an image, as `patch_count`, by three settings."""
    named = named_sizes(encoder)
    side = patch_size or (named[0] if named else 0)
    size = img_size or ((named[1],) * 2 if named else None)
    if not side or size is None:
        return None
    return (size[0] // side) * (size[1] // side)


def named_sizes(encoder: str) -> tuple[int, int] | None:
    """Sides of patches and images in timm's name of an encoder; None: not in it."""
    found = re.search(r"patch(\d+)(?:_\w+?)?_(\d+)", encoder)
    return (int(found[1]), int(found[2])) if found else None


class FrozenModel(Section):
    """Frozen encoder and the classes of the head on it."""

    encoder: Path = Path()
    """run, checkpoint, export, file of weights, timm:NAME or hf:ID of the encoder"""
    num_heads: NonNegative = 0
    """attention heads, for weights that do not record them (0: theirs)"""
    mean: tuple[float, ...] = ()
    """normalisation of the pixels, for weights that do not record it (none: theirs)"""
    std: tuple[float, ...] = ()
    """normalisation of the pixels, for weights that do not record it (none: theirs)"""
    untrained: bool = False
    """use freshly initialised weights of the encoder's architecture, as a baseline"""
    sha256: Text = ""
    """checksum of the encoder's weights, verified when the run is resumed"""
    classes: NonNegative = 0
    """number of classes (0: the number of different labels in the training data)"""
    labels: tuple[int, ...] = ()
    """label of each class, ascending (none: class i has label i)"""


COMPLETED_KEYS = {"model.encoder", "model.classes", "model.labels"}
"""settings that the training data decides, and the encoder's folder, identified by sha256"""


class ProbeDeclaration(Declaration):
    """Declaration of a probe: a classifier on a frozen encoder."""

    needs_img_size = False
    needs_labels = True
    is_probe = True
    panels_title = ""

    def complete(self, config: Config, manifest: "Manifest") -> Config:
        """Fill in the classes of the training data.  Raises UserError as `with_classes`."""
        model = with_classes(frozen_model_of(config), manifest)
        return config.model_copy(update={"model": model})

    def completed_keys(self, config: Config) -> set[str]:
        """Keys that `complete` fills in, and the encoder's folder."""
        return COMPLETED_KEYS

    def next_steps(self, run: Path) -> list[str]:
        """No commands: the one that trains a probe tests it, too."""
        return []

    def history(self, config: Config) -> str:
        """Training in a few words, for the cards of models that start from its weights."""
        return f"{self.name} of {frozen_model_of(config).classes} classes"

    def describe_frozen(self, config: Config) -> str:
        """Description of classes and frozen encoder in a few words."""
        model = frozen_model_of(config)
        return f"for {model.classes} classes, on {model.encoder}{' untrained' * model.untrained}"


def frozen_model_of(config: Config) -> FrozenModel:
    """Section `model:` of a probe's run."""
    assert isinstance(config.model, FrozenModel)
    return config.model


def with_classes(model: FrozenModel, manifest: "Manifest") -> FrozenModel:
    """Section with the classes of the training data filled in, where it has none yet.

    Raises UserError where samples of `manifest` have no label, or a label that is not among
    `model.labels`.
    """
    from mae.data.required_labels import require_labels

    labels = np.unique(require_labels(manifest, "data.train"))
    if model.classes:
        expected = np.array(model.labels or range(model.classes))
        if len(unknown := np.setdiff1d(labels, expected)):
            raise UserError(f"data.train: label {unknown[0]} is none of model.labels")
        return model
    return model.model_copy(update=classes_of(labels.tolist()))


def classes_of(labels: list[int]) -> dict[str, int | tuple[int, ...]]:
    """Settings `classes` and `labels` for the different labels, in ascending order."""
    is_plain = labels == list(range(len(labels)))
    return {"classes": len(labels), "labels": () if is_plain else tuple(labels)}
