"""Model to be exported, the choices of `mae export`, and the result of a format's writer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.pixels import normalize_images, pixel_affine
from mae.networks.vit import timm_encoder
from mae.objectives.base import Implementation, Objective
from mae.objectives.sections import VitModel
from mae.training.checkpoint.files import TrainingState

Pool = Literal["token", "avg"]

Loader: TypeAlias = Callable[[Path, dict[str, Tensor], dict[str, str]], dict[str, Tensor]]
"""(folder, `Written.given`, `Written.notes`) → what must equal `Written.expected`; a function of
a module, which a fresh process imports"""

NORMALISED = """\
Images come as numbers in [0, 1], less the mean and divided by the standard deviation (below),
channel by channel."""


class Subject(NamedTuple):
    """A model on the CPU, in evaluation mode, and the choices of `mae export`."""

    config: Config
    model: Objective
    state: TrainingState
    pool: Pool | None
    """vector that stands for an image: the class token, or the mean of the patch tokens; None:
    the model has no encoder of timm's"""
    decoder: bool
    """a decoder that only training needs goes along, where the format has a place for it"""
    trained_size: tuple[int, int]
    """height and width of the images that it was trained on, in pixels"""
    class_names: Sequence[str] = ()
    """in the order of the logits, where there are any"""
    options: frozenset[str] = frozenset()
    """options of the user's that not every format has a place for"""

    @property
    def encoder(self) -> VisionTransformer:
        """Vision Transformer of timm's, for the formats of models that have one."""
        vit = timm_encoder(self.model)
        assert vit is not None
        return vit

    @property
    def vit(self) -> VitModel:
        """Settings of this encoder."""
        assert isinstance(self.config.model, VitModel)
        return self.config.model

    def normalize(self, images: Tensor) -> Tensor:
        """Integer images as the encoder takes them."""
        data = self.config.data
        affine = pixel_affine(data.mean, data.std, data.in_chans, 2**data.bits - 1)
        return normalize_images(images, affine)


class Written(NamedTuple):
    """Files that a format's writer has put into the folder, and how to prove them."""

    given: dict[str, Tensor]
    """what the check computes from; of the timm formats normalised `images`, [b c h w]"""
    expected: dict[str, Tensor]
    """what it must find, by name"""
    tolerance: float
    """of the largest difference, relative to the root mean square of what is expected"""
    reader: str
    """the library that loads it"""
    files: str
    """contents of each file, for the model card"""
    code: str
    """Python that loads it, with FOLDER for the folder's name"""
    loader: Loader
    """loads it in a fresh process and computes what is expected"""
    library: str
    """as model hubs name it"""
    part: str = "encoder"
    """of the model that it holds, in a word"""
    notes: Mapping[str, str] = {}
    """settings for `loader`"""
    images: str = NORMALISED
    """what the loaded model takes, for the model card"""
    remarks: Sequence[str] = ()
    """lines for the user"""


Writer: TypeAlias = Callable[[Path, Subject, Tensor], Written]
"""(new folder, subject, raw images [b c h w] to check on) → the files in it"""


def choose_pool(objective: Objective, own: Implementation, chosen: Pool | None) -> Pool | None:
    """The objective's choice or the user's; otherwise the class token where there is one.

    Raises UserError for what the model does not have.
    """
    vit = timm_encoder(objective)
    if vit is None:
        if chosen:
            raise UserError(f"--pool {chosen}: is for encoders of timm's; this model has none")
        return None
    chosen = own.choose_pool(objective, chosen)
    if chosen == "token" and not vit.has_class_token:
        raise UserError("--pool token: this encoder has no class token; --pool avg")
    return chosen or ("token" if vit.has_class_token else "avg")


@torch.no_grad()
def resize(
    config: Config, objective: Objective, own: Implementation, img_size: tuple[int, int]
) -> Config:
    """Fit `objective` to another image size, in place: positions interpolated as timm does it.

    Returns the settings with that size.  Raises UserError where patches do not divide it, or no
    positions are there to be interpolated.
    """
    vit = timm_encoder(objective)
    if vit is None:
        raise UserError(
            f"--img-size: is for encoders of timm's; objective {config.objective} has none"
        )
    (h, w), (p, q) = img_size, vit.patch_embed.patch_size
    if h % p or w % q:
        raise UserError(f"--img-size: {h} x {w} does not divide into patches of {p} x {q}")
    rows, columns = vit.patch_embed.grid_size
    vit.set_input_size(img_size=img_size)
    objective.img_size = img_size
    own.after_resize(objective, (rows, columns))
    return config.model_copy(update={"data": config.data.model_copy(update={"img_size": img_size})})


def refuse_options(subject: Subject, format: str, reasons: Mapping[str, str]) -> None:
    """UserError where the user gave an option that `format` has no place for, which says why."""
    for option, reason in reasons.items():
        if option in subject.options:
            raise UserError(f"{option}: {format} has no place for it; {reason}")


def part_of(subject: Subject) -> str:
    """`Written.part` of a timm encoder."""
    return "classifier" if subject.encoder.num_classes else "encoder"


def features(vit: VisionTransformer, images: Tensor, pool: Pool | None) -> tuple[Tensor, Tensor]:
    """[b c h w] normalised → all tokens [b tokens d], and one vector per image [b d].

    A model with a classifier of its own gives its logits instead of the vector.
    """
    tokens = vit.forward_features(images)
    if vit.num_classes:
        return tokens, vit.forward_head(tokens)
    return tokens, tokens[:, 0] if pool == "token" else tokens[:, vit.num_prefix_tokens :].mean(1)


@torch.no_grad()
def expect_features(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """What every loaded encoder must compute from normalised `images`."""
    tokens, pooled = features(subject.encoder, images, subject.pool)
    return {"tokens": tokens, "pooled": pooled}


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A state dict that can be written."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
