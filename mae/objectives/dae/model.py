"""Denoising autoencoder: reconstructs the clean image from a corrupted one."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import Backbone, encode_map
from mae.objectives.autoencoders.bottleneck import Bottleneck
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.model import Autoencoder, Noise
from mae.objectives.base import Reconstruction


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

    def decode_normalized(
        self, latents: Tensor, inputs: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Denoised images: with `residual` the inputs less the predicted noise."""
        output = super().decode_normalized(latents, inputs)
        return inputs - output if self.residual else output

    def denoise(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoise images that are noisy already; integers or normalised floats → [0, 1]."""
        inputs = self.normalize(images)
        latents = self.bottleneck.encode(encode_map(self.encoder, inputs))
        normalized = self.decode_normalized(latents, inputs)
        return self.unit(normalized.to(inputs.dtype)).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], noise: Noise) -> Reconstruction:
        """Corrupt clean images by `noise`, and denoise them."""
        inputs = self.corrupted(self.normalize(images), noise)
        return Reconstruction(self.denoise(inputs), inputs=self.unit(inputs))
