"""Autoencoders (Hinton and Salakhutdinov 2006): corruption → encoder → bottleneck → decoder."""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.tensor_hashing import mix_tensor
from mae.config.sections import Config
from mae.networks.encoders.registry import is_encoder
from mae.objectives.autoencoders.backbones import Backbone, FromLatent, encode_map, flat
from mae.objectives.autoencoders.baselines import Baselines
from mae.objectives.autoencoders.bottleneck import Bottleneck
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.declaration import model_of
from mae.objectives.autoencoders.pixels import PixelObjective
from mae.objectives.base import Features, Merge, Output, StepEnd, full_precision
from mae.objectives.capabilities import ImageLatents, Reconstruction


class Noise(NamedTuple):
    """Randomness of a micro-batch; None: the objective needs none."""

    corruption: Float[Tensor, "b c h w"] | None = None
    latent: Shaped[Tensor, "b n"] | None = None
    """randomness of the bottleneck, as its `draw` returns it"""
    transforms: Float[Tensor, "b 2"] | None = None
    """scale and number of quarter turns, of autoencoders that learn to be equivariant"""


AnyBottleneck = TypeVar("AnyBottleneck", bound=Bottleneck)


class Autoencoder(PixelObjective, Generic[AnyBottleneck]):
    """Encoder, bottleneck, decoder; mean squared error of the pixels.

    Images are uint8 or uint16, [b c h w]; the model normalises them on the device.  Floating-point
    images are taken as normalised.  The loss is in units of normalised pixels.
    """

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        bottleneck: AnyBottleneck,
        corruption: Corruption | None = None,
    ) -> None:
        """`config`: normalisation of the pixels and shape of the latents.

        Raises UserError where data.mean and data.std are not one number per channel.
        """
        super().__init__(config.data, backbone.img_size)
        self.encoder = backbone.encoder
        self.bottleneck = bottleneck
        self.from_latent = FromLatent(
            backbone.decoded, model_of(config).latent, bottleneck.latent_dim
        )
        self.decoder = backbone.decoder
        self.corruption = corruption
        self.baselines: Baselines | None = None
        """fitted at the first evaluation on held-out images"""

    @property
    def merges(self) -> Mapping[str, Merge]:  # pyrefly: ignore
        """Merges of the bottleneck's carry."""
        return self.bottleneck.merges

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Noise:
        """Noise of corruption and bottleneck: a pure function of `seeds`."""
        shape = (self.in_chans, *self.img_size)
        return Noise(
            self.corruption.draw(seeds, shape) if self.corruption else None,
            self.bottleneck.draw(mix_tensor(seeds)),
        )

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Noise, progress: Float[Tensor, ""]
    ) -> Output:
        """Reconstruct the clean images from the corrupted ones; errors and latents' losses."""
        target = self.normalize(images)
        inputs = self.corrupted(target, noise)
        features = encode_map(self.encoder, inputs)
        latent = self.bottleneck(features, noise.latent, progress)
        prediction = self.decode_normalized(latent.values, inputs)
        further = self.further_losses(features, latent.values, target, prediction)
        with full_precision(images.device):
            errors = (prediction.to(target.dtype) - target).square()
            own = {"reconstruction": self.reconstruction_loss(errors)}
            losses = {**own, **latent.losses, **further}
            statistics = {"psnr": self.psnr(errors.detach()).mean(), **latent.statistics}
        return Output(losses, statistics, latent.carry)

    def further_losses(
        self,
        features: Float[Tensor, "b d gh gw"],
        latents: Tensor,
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
    ) -> dict[str, Tensor]:
        """Losses that need more than the bottleneck knows, weighted (default: none)."""
        return {}

    def reconstruction_loss(self, errors: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Mean of the squared errors of normalised pixels."""
        return errors.mean()

    def decode_normalized(
        self, latents: Tensor, inputs: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Latents → normalised images; `inputs` are those of the encoder."""
        return self.decoder(self.from_latent(latents))

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Latents of whole images as features; of a Vision Transformer its patch tokens, too."""
        features = encode_map(self.encoder, self.normalize(images))
        pooled = {"latent": flat(self.bottleneck.encode(features)), "mean": features.mean((2, 3))}
        is_vit = is_encoder(self.encoder)
        return Features(pooled, features.flatten(2).transpose(1, 2) if is_vit else None)

    def latents(self, images: Shaped[Tensor, "b c h w"]) -> Tensor:
        """Latents of whole images, without noise, [b n] or [b n gh gw]: the input of `decode`."""
        return self.bottleneck.encode(encode_map(self.encoder, self.normalize(images)))

    def image_latents(self, images: Shaped[Tensor, "b c h w"]) -> ImageLatents:
        """Latents of whole images as arrays to be stored."""
        return ImageLatents(
            self.bottleneck.arrays(encode_map(self.encoder, self.normalize(images)))
        )

    def decode(self, latents: Tensor) -> Float[Tensor, "b c h w"]:
        """Latents → images in [0, 1], or normalised floats."""
        normalized = self.decoder(self.from_latent(latents))
        return self.bounded(self.unit(normalized.to(self.pixel_scale.dtype)))

    def compress(self, images: Shaped[Tensor, "b c h w"]) -> Tensor:
        """Whole images → what an image is stored as: the latents, or codes where there are any."""
        return self.latents(images)

    def decompress(self, stored: Tensor) -> Float[Tensor, "b c h w"]:
        """Latents or codes of `compress` → images in [0, 1]."""
        return self.decode(stored)

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], noise: Noise) -> Reconstruction:
        """Reconstruction of the clean images, without noise in the latents."""
        return Reconstruction(self.decompress(self.compress(images)))

    def encoder_module(self) -> nn.Module:
        """Encoder and bottleneck."""
        return nn.ModuleList([self.encoder, self.bottleneck])

    def after_step(self, step: StepEnd) -> None:
        """Update the bottleneck's buffers."""
        self.bottleneck.after_step(step)

    def corrupted(
        self, normalized: Float[Tensor, "b c h w"], noise: Noise
    ) -> Float[Tensor, "b c h w"]:
        """Corrupt normalised images by the corruption's noise, if any."""
        if self.corruption is None or noise.corruption is None:
            return normalized
        pixels = self.corruption.apply(self.unit(normalized), noise.corruption)
        return pixels * (self.pixel_scale * self.white) + self.pixel_shift
