"""Tiny models as sources and targets of pretrained weights."""

from typing import Any, TypeVar

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.networks.vit import build_encoder
from mae.objectives.mae.model import MaskedAutoencoder

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 4}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}
NAME = "vit_tiny_patch16_224"

Model = TypeVar("Model", bound=nn.Module)


def our_mae(in_chans: int = 3, seed: int = 0, **arguments) -> MaskedAutoencoder:
    """A model of 4 x 4 patches unless `arguments` of the encoder or the decoder differ."""
    torch.manual_seed(seed)
    decoder = {key: arguments.pop(key, value) for key, value in DECODER.items()}
    sizes: dict[str, Any] = {"img_size": (32, 32), "patch_size": 8, **SIZES, **arguments}
    encoder = build_encoder(NAME, in_chans=in_chans, **sizes)
    numbers = (0.5,) * in_chans
    return MaskedAutoencoder(encoder, mean=numbers, std=numbers, **decoder).eval()


def classifier(classes: int = 5, **arguments) -> VisionTransformer:
    """timm classifier with random numbers in all weights, positions included."""
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, **SIZES, **arguments}
    model = timm.create_model(NAME, num_classes=classes, **sizes).eval()
    assert isinstance(model, VisionTransformer)
    return shaken(model, 1)


def shaken(model: Model, seed: int) -> Model:
    """Add noise to all parameters of `model`, so that biases, norms and positions matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def some_images(channels: int = 3, side: int = 32) -> Tensor:
    """Random normalised images [3 c h w]."""
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(3))
