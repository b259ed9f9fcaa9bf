"""What is exported: a trained model, and how the user wants it."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.config import Config
from mae.errors import UserError
from mae.models.classifier import Classifier
from mae.models.decoder import Decoder
from mae.models.mae import MaskedAutoencoder
from mae.training.checkpoint import Position

Pool = Literal["token", "avg"]


class Subject(NamedTuple):
    """A model on the CPU, in evaluation mode, and the choices of `mae export`."""

    config: Config
    model: MaskedAutoencoder | Classifier
    position: Position
    pool: Pool
    """what stands for an image: the class token, or the mean of the patch tokens"""
    decoder: bool
    """the decoder goes along, where the format has a place for it"""
    trained_size: tuple[int, int]
    """height and width of the images that it was trained on, in pixels"""
    class_names: Sequence[str] = ()
    """of a classifier"""

    @property
    def pretraining(self) -> MaskedAutoencoder:
        """The model where it has a decoder."""
        assert isinstance(self.model, MaskedAutoencoder)
        return self.model

    @property
    def joint_decoder(self) -> Decoder:
        """The decoder that other libraries have names for."""
        assert isinstance(self.pretraining.decoder, Decoder)
        return self.pretraining.decoder


class Written(NamedTuple):
    """What a format's writer has put into the folder, and how to prove it."""

    given: dict[str, Tensor]
    """what the check computes from; `images` are normalised, [b c h w]"""
    expected: dict[str, Tensor]
    """what it must find, by name"""
    tolerance: float
    """of the largest difference, relative to the root mean square of what is expected"""
    reader: str
    """that loaded it"""
    files: str
    """what each file is, for the model card"""
    code: str
    """how to load it, in Python, with FOLDER for the folder's name"""
    architecture: dict[str, Any] | None = None
    """as in timm's config.json, where the format itself does not say what to build"""


def choose_pool(model: MaskedAutoencoder | Classifier, chosen: Pool | None) -> Pool:
    """The class token where there is one and nothing else was asked for; a classifier has its own.

    Raises UserError for what the model does not have.
    """
    if isinstance(model, Classifier):
        own: Pool = model.settings.global_pool
        if chosen not in (None, own):
            raise UserError(f"--pool {chosen}: this classifier was trained on {own}")
        return own
    if chosen == "token" and not model.encoder.has_class_token:
        raise UserError("--pool token: this encoder has no class token; --pool avg")
    return chosen or ("token" if model.encoder.has_class_token else "avg")


@torch.no_grad()
def resize(
    config: Config, model: MaskedAutoencoder | Classifier, img_size: tuple[int, int]
) -> Config:
    """Fit `model` to another image size, in place: positions interpolated as timm does it.

    Returns the settings with that size.  Raises UserError where patches do not divide it.
    """
    (h, w), (p, q) = img_size, model.patch_size
    if h % p or w % q:
        raise UserError(f"--img-size: {h} x {w} does not divide into patches of {p} x {q}")
    old_grid = model.encoder.patch_embed.grid_size
    model.encoder.set_input_size(img_size=img_size)
    model.img_size = img_size
    if isinstance(model, MaskedAutoencoder):
        grid = model.encoder.patch_embed.grid_size
        positions = resample_abs_pos_embed(
            model.decoder.pos_embed, list(grid), list(old_grid), num_prefix_tokens=0
        )
        model.decoder.pos_embed = nn.Parameter(positions, requires_grad=False)
        model.num_patches = grid[0] * grid[1]
    return config.model_copy(
        update={"model": config.model.model_copy(update={"img_size": img_size})}
    )


def features(vit: VisionTransformer, images: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
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
    tokens, pooled = features(subject.model.encoder, images, subject.pool)
    return {"tokens": tokens, "pooled": pooled}


@torch.no_grad()
def expect_prediction(
    subject: Subject, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(given, expected): noise whose order hides patches, and the predictions for these."""
    model = subject.pretraining
    split = model.draw(images, torch.arange(len(images)))
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(shuffle.shape[1]).float().expand(shuffle.shape)
    noise = torch.zeros_like(ranks).scatter(1, shuffle, ranks)
    given = {"noise": noise, "ids_masked": split.ids_masked}
    return given, {"prediction": model.predict(model.patchify(images), split)}


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A state dict that can be written."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
