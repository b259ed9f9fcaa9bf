"""Networks of an autoencoder from its settings: encoder, decoder, and the layers of the latents."""

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.networks.convolutional import ConvDecoder, ConvEncoder
from mae.networks.encoders.registry import adapter_of, is_encoder
from mae.networks.latent_diffusion import LdmSettings, build_ldm
from mae.networks.vit import build_encoder, encoder_shape, initialize_encoder
from mae.networks.vit_decoder import VitDecoder
from mae.objectives.autoencoders.declaration import model_of

AnyEncoder: TypeAlias = nn.Module
"""encoder of timm's, or a module from normalised images to a map of features"""
AnyDecoder: TypeAlias = nn.Module
"""module from a map of features to normalised images"""


class MapShape(NamedTuple):
    """Shape of a map of features."""

    channels: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Numbers in the map."""
        return self.channels * self.rows * self.columns


class Backbone(NamedTuple):
    """AnyEncoder (images → map of features) and decoder (map of features → images)."""

    encoder: AnyEncoder
    decoder: AnyDecoder
    encoded: MapShape
    """output of the encoder"""
    decoded: MapShape
    """input of the decoder"""
    img_size: tuple[int, int]


def build_backbone(config: Config, *, double_z: bool = False) -> Backbone:
    """Build encoder and decoder.  Raises UserError as `build_encoder`, or without data.img_size.

    `double_z`: as in `build_ldm`, for the backbone ldm.
    """
    model, data = model_of(config), config.data
    if data.img_size is None:
        raise UserError("data.img_size: must be set")
    height, width = data.img_size
    if model.backbone == "linear":
        shape = MapShape(data.in_chans, height, width)
        return Backbone(nn.Identity(), nn.Identity(), shape, shape, data.img_size)
    if model.backbone == "ldm":
        side = 2**model.stages
        shape = MapShape(model.latent_dim, height // side, width // side)
        encoded = shape._replace(channels=(1 + double_z) * model.latent_dim)
        networks = build_ldm(ldm_settings(config), double_z=double_z)
        return Backbone(*networks, encoded, shape, data.img_size)
    if model.backbone == "conv":
        side = 2**model.stages
        encoder = ConvEncoder(data.in_chans, model.width, model.stages, model.depth)
        decoder = ConvDecoder(data.in_chans, model.width, model.stages, model.depth)
        grid = height // side, width // side
        channels = encoder.out_channels
    else:
        encoder = build_encoder(
            model.encoder,
            img_size=data.img_size,
            patch_size=model.patch_size,
            in_chans=data.in_chans,
            **model.encoder_kwargs,
        )
        initialize_encoder(encoder)
        sizes = encoder_shape(encoder)
        grid, channels, heads = sizes.grid_size, sizes.embed_dim, sizes.num_heads
        if heads is None:
            raise UserError(f"model.encoder: {model.encoder}: its blocks differ in their heads")
        decoder = VitDecoder(
            dim=channels,
            depth=model.decoder_depth,
            num_heads=heads,
            img_size=data.img_size,
            patch_size=sizes.patch_size,
            out_chans=data.in_chans,
        )
    shape = MapShape(channels, *grid)
    return Backbone(encoder, decoder, shape, shape, data.img_size)


def ldm_settings(config: Config) -> LdmSettings:
    """Sizes of the networks of latent diffusion, for the backbone ldm."""
    model = model_of(config)
    return LdmSettings(
        in_channels=config.data.in_chans,
        latent_channels=model.latent_dim,
        width=model.width,
        stages=model.stages,
        depth=model.depth,
    )


def encode_map(encoder: AnyEncoder, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
    """Normalised images → map of features; of a Vision Transformer its patch tokens."""
    if is_encoder(encoder):
        _, tokens = adapter_of(encoder).split(encoder, encoder.forward_features(images))
        return tokens.transpose(1, 2).unflatten(2, encoder_shape(encoder).grid_size)
    return encoder(images)


class ToLatent(nn.Module):
    """Linear layer from a map of features to latents: of the whole map, or of each position."""

    def __init__(self, shape: MapShape, latent: str, numbers: int) -> None:
        """`latent`: vector or map, `numbers` per vector or position."""
        super().__init__()
        self.is_vector = latent == "vector"
        self.layer = (
            nn.Linear(shape.size, numbers)
            if self.is_vector
            else nn.Conv2d(shape.channels, numbers, 1)
        )

    def forward(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """[b d gh gw] → [b numbers], or [b numbers gh gw]."""
        return self.layer(features.flatten(1) if self.is_vector else features)


class FromLatent(nn.Module):
    """Linear layer from latents to the decoder's map of features: the reverse of `ToLatent`."""

    def __init__(self, shape: MapShape, latent: str, numbers: int) -> None:
        super().__init__()
        self.shape = shape
        self.is_vector = latent == "vector"
        self.layer = (
            nn.Linear(numbers, shape.size)
            if self.is_vector
            else nn.Conv2d(numbers, shape.channels, 1)
        )

    def forward(self, latents: Tensor) -> Float[Tensor, "b d gh gw"]:
        """[b numbers], or [b numbers gh gw] → [b d gh gw]."""
        features = self.layer(latents)
        return features.unflatten(1, tuple(self.shape)) if self.is_vector else features


def flat(latents: Tensor) -> Float[Tensor, "b n"]:
    """Latents as one vector per image."""
    return torch.flatten(latents, 1)
