"""Contract between `mae export` and its formats: request, writer, written files and their check."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.config.sections import Config
from mae.data.class_names import Classes
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.patches import affine_of, normalize_images
from mae.networks.vit import does_not_divide, encoder_shape, timm_encoder
from mae.objectives.base import Objective
from mae.objectives.implementation import Implementation
from mae.objectives.shared_sections import VitModel
from mae.training.checkpoint.checkpoint_files import TrainingState

NORMALISED_IMAGES = """\
Images come as numbers in [0, 1], less the mean and divided by the standard deviation (below),
channel by channel."""

Pool = Literal["token", "avg"]

Loader: TypeAlias = Callable[[Path, dict[str, Tensor], dict[str, str]], dict[str, Tensor]]
"""(folder, `ExportFiles.inputs`, `ExportFiles.settings`) → tensors to compare with
`ExportFiles.expected`; a module-level function, which a fresh process imports"""


class ExportRequest(NamedTuple):
    """A model on the CPU, in evaluation mode, and the options of `mae export`."""

    config: Config
    model: Objective
    state: TrainingState
    pool: Pool | None
    """vector per image: the class token, or the mean of the patch tokens; None: the model has no
    timm encoder"""
    decoder: bool
    """export the decoder, which only pretraining needs, where the format has a place for it"""
    trained_size: tuple[int, int]
    """height and width of the training images, in pixels"""
    classes: Classes | None = None
    """those of the logits; None without logits"""
    options: frozenset[str] = frozenset()
    """names of options given by the user that not every format supports, such as `--pool`"""
    photograph: Tensor | None = None
    """decoded image [c h w] of any size, to check the printed code on"""

    @property
    def encoder(self) -> TimmEncoder:
        """Timm encoder, for formats that need one."""
        vit = timm_encoder(self.model)
        assert vit is not None
        return vit

    @property
    def vit(self) -> VitModel:
        """Settings of this encoder."""
        assert isinstance(self.config.model, VitModel)
        return self.config.model

    @property
    def label_names(self) -> list[str]:
        """A printable name for each class, in the order of the logits; its number without one."""
        return [printable(name) for name in self.classes.shown()] if self.classes else []

    def normalize(self, images: Tensor) -> Tensor:
        """Images [b c h w] → normalised floats, the encoder's input; floats are normalised."""
        data = self.config.data
        affine = affine_of(data.mean, data.std, data.in_chans, data.bits)
        return normalize_images(images, affine)


class ExportFiles(NamedTuple):
    """Description of the files that a format's writer has written, and data for their check."""

    inputs: dict[str, Tensor]
    """inputs of the check; of timm encoders normalised `images` [b c h w]"""
    expected: dict[str, Tensor]
    """the model's outputs for these inputs, by name"""
    tolerance: float
    """maximum difference, relative to the root mean square of the expected tensor"""
    reader: str
    """name of the library that loads the files"""
    files: str
    """content of each file, for the model card"""
    code: str
    """Python code that loads the files, with FOLDER for the folder's name; where an image is
    `expected` by it, it reads one from a file and leaves the model's input in `images`"""
    loader: Loader
    """loads the files in a fresh process and computes the outputs"""
    library: str
    """`library_name` on model hubs"""
    part: str = "encoder"
    """exported part of the model, in a word"""
    settings: Mapping[str, str] = {}
    """settings for `loader`"""
    images: str = NORMALISED_IMAGES
    """input of the loaded model, for the model card"""
    remarks: Sequence[str] = ()
    """lines for the user"""
    tolerances: Mapping[str, float] = {}
    """those of outputs that have another than `tolerance`"""


Writer: TypeAlias = Callable[[Path, ExportRequest, Tensor], ExportFiles]
"""(new folder, request, raw images [b c h w] for the check) → the written files"""


def choose_pool(objective: Objective, own: Implementation, chosen: Pool | None) -> Pool | None:
    """Pooling of the export: the objective's, the user's, or by default the class token.

    Without a class token the default is the mean of the patch tokens; None without a timm encoder.
    Raises UserError where the model cannot pool as `chosen`.
    """
    vit = timm_encoder(objective)
    if vit is None:
        if chosen:
            raise UserError(
                f"--pool {chosen}: needs a timm encoder, which this model does not have"
            )
        return None
    chosen = own.choose_pool(objective, chosen)
    has_class_token = encoder_shape(vit).has_class_token
    if chosen == "token" and not has_class_token:
        raise UserError("--pool token: this encoder has no class token; use --pool avg")
    return chosen or ("token" if has_class_token else "avg")


@torch.no_grad()
def resize(
    config: Config, objective: Objective, own: Implementation, img_size: tuple[int, int]
) -> Config:
    """Fit `objective` to another image size in place; positions are interpolated as in timm.

    Returns the settings with that size.  Raises UserError where the size is no multiple of the
    patch size, or the model has no timm encoder.
    """
    vit = timm_encoder(objective)
    if vit is None:
        raise UserError(
            f"--img-size: needs a timm encoder, which objective {config.objective} does not have"
        )
    shape = encoder_shape(vit)
    unit = adapter_of(vit).unit_size(vit)
    if any(side % part for side, part in zip(img_size, unit, strict=True)):
        raise does_not_divide(img_size, vit, "--img-size")
    adapter_of(vit).resize(vit, img_size)
    objective.img_size = img_size
    own.after_resize(objective, shape.grid_size)
    return config.model_copy(update={"data": config.data.model_copy(update={"img_size": img_size})})


def refuse_options(request: ExportRequest, format: str, reasons: Mapping[str, str]) -> None:
    """Raise UserError for an option of the user's that `format` does not support.

    `reasons`: option → reason, for the message.
    """
    for option, reason in reasons.items():
        if option in request.options:
            raise UserError(f"{option}: not supported by --format {format}: {reason}")


def exported_part(request: ExportRequest) -> str:
    """`ExportFiles.part` of a timm encoder: "classifier" or "encoder"."""
    return "classifier" if request.encoder.num_classes else "encoder"


def features(vit: TimmEncoder, images: Tensor, pool: Pool | None) -> tuple[Tensor, Tensor]:
    """Normalised [b c h w] → all tokens [b tokens d], and one vector per image [b d].

    A model with a classifier head gives its logits [b classes] instead of the vector.
    """
    tokens = vit.forward_features(images)
    if vit.num_classes:
        return tokens, vit.forward_head(tokens)
    pooled, _ = adapter_of(vit).split(vit, tokens)
    return tokens, pooled["cls" if pool == "token" else "mean"]


@torch.no_grad()
def expected_features(request: ExportRequest, images: Tensor) -> dict[str, Tensor]:
    """`ExportFiles.expected` of a timm encoder for normalised `images` [b c h w]."""
    tokens, pooled = features(request.encoder, images, request.pool)
    return {"tokens": tokens, vector_name(request.encoder): pooled}


def vector_name(vit: TimmEncoder) -> str:
    """Name of an export's output besides the tokens."""
    return "logits" if vit.num_classes else "pooled"


def weights(module: nn.Module) -> dict[str, Tensor]:
    """State dict of `module` on the CPU, contiguous, for writing."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
