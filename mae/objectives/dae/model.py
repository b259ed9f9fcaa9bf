"""Denoising autoencoder: reconstructs the clean image from a corrupted one."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import Backbone, encode_map
from mae.objectives.autoencoders.bottleneck import Bottleneck
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.declaration import model_of
from mae.objectives.autoencoders.model import Autoencoder, Noise
from mae.objectives.autoencoders.tiling import in_faded_tiles
from mae.objectives.capabilities import ImageLatents, Reconstruction

TILE = 256
"""side in pixels of the tiles of larger images, for networks that take any size"""


class DenoisingAutoencoder(Autoencoder):
    """Autoencoder of corrupted images with clean targets (Vincent et al. 2008, section 2.3).

    With `residual` the network predicts the noise (Zhang et al. 2017, section III-A, DnCNN).
    """

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        bottleneck: Bottleneck,
        corruption: Corruption,
        residual: bool,
    ) -> None:
        super().__init__(config, backbone, bottleneck, corruption)
        self.residual = residual
        model = model_of(config)
        is_local = model.latent == "map" and model.backbone != "vit"
        sides = [-(-TILE // 2**model.stages) * 2**model.stages] * 2 if is_local else self.img_size
        self.tile = max(sides[0], self.img_size[0]), max(sides[1], self.img_size[1])
        """height and width of the largest image that the networks process at once"""
        self.multiple = 2**model.stages if is_local else 0
        """required divisor of the sides of smaller images; 0: all images have the tile's size"""

    @property
    def noise_std(self) -> float | None:
        """Standard deviation of the noise of training, of pixels in [0, 1]; None: not Gaussian."""
        assert self.corruption is not None
        return self.corruption.strength if self.corruption.name == "gaussian" else None

    def decode_normalized(
        self, latents: Tensor, inputs: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Denoised images: with `residual` the inputs less the predicted noise."""
        output = super().decode_normalized(latents, inputs)
        return inputs - output if self.residual else output

    def decode(self, latents: Tensor) -> Float[Tensor, "b c h w"]:
        """Latents → images in [0, 1].

        Raises UserError with `residual`: latents then stand for the noise alone.
        """
        self.refuse_residual()
        return super().decode(latents)

    def image_latents(self, images: Shaped[Tensor, "b c h w"]) -> ImageLatents:
        """Latents of whole images; raises UserError with `residual`."""
        self.refuse_residual()
        return super().image_latents(images)

    def refuse_residual(self) -> None:
        """Raise UserError where latents stand for the noise alone."""
        if self.residual:
            raise UserError(
                "this denoiser predicts the noise of its input, so its latents give no image: use "
                "denoise(images), or train with model.residual=false"
            )

    @torch.no_grad()
    def denoise(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoise noisy images of any size, integers or normalised floats; pixels in [0, 1].

        Images larger than `tile` are processed in tiles that fade into each other.
        """
        inputs = self.normalize(images)
        height, width = (
            min(most, -(-side // self.multiple) * self.multiple) if self.multiple else most
            for side, most in zip(inputs.shape[2:], self.tile, strict=True)
        )
        return in_faded_tiles(self.denoise_tile, inputs, (height, width))

    def denoise_tile(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoise normalised images of the networks' size, to pixels in [0, 1]."""
        latents = self.bottleneck.encode(encode_map(self.encoder, inputs))
        normalized = self.decode_normalized(latents, inputs)
        return self.unit(normalized.to(inputs.dtype)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], noise: Noise) -> Reconstruction:
        """Corrupt clean images by `noise`, and denoise them."""
        inputs = self.corrupted(self.normalize(images), noise)
        return Reconstruction(self.denoise(inputs), inputs=self.unit(inputs))
