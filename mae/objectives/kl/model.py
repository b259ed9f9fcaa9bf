"""Autoencoder of latent diffusion: diffusers' AutoencoderKL with the losses that train it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.tensor_hashing import mix_tensor
from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import Backbone, encode_map
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.model import Autoencoder, Noise
from mae.objectives.base import FirstStage, Output, full_precision
from mae.objectives.capabilities import ImageLatents
from mae.objectives.kl.bottleneck import KlBottleneck
from mae.objectives.kl.critic import PatchCritic, adversarial_losses, generator_weight
from mae.objectives.kl.declaration import kl_model
from mae.objectives.kl.equivariance import draw_transforms, transform
from mae.objectives.kl.frozen_features import (
    Margins,
    PatchFeatures,
    alignment_loss,
    feature_distance,
)


class KlAutoencoder(Autoencoder[KlBottleneck]):
    """Mean absolute error and KL divergence per value of the image; further terms by settings.

    Latents are drawn from the predicted Gaussians.  The networks are diffusers' own:
    `bottleneck.to_latent.layer` is its quant_conv, `from_latent.layer` its post_quant_conv.
    """

    optional_weights = ("critic.", "project.", "source_scale")

    source_scale: Tensor
    """scaling_factor, shift_factor, latents_mean, latents_std of the folder whose encoder is kept,
    0 where it has none; there only with model.decoder_only"""

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        bottleneck: KlBottleneck,
        first_stage: FirstStage | None = None,
    ) -> None:
        """`first_stage`: model with the frozen encoder of perceptual distance and alignment."""
        super().__init__(config, backbone, bottleneck)
        model = kl_model(config)
        self.first_stage = first_stage
        self.features = PatchFeatures(first_stage) if first_stage else None
        self.perceptual, self.align = model.perceptual, model.align
        self.margins = Margins(model.align_cosine_margin, model.align_distance_margin)
        width = self.features.width if self.features and model.align else 0
        self.project = nn.Conv2d(model.latent_dim, width, 1, bias=False) if width else None
        self.adv, self.adv_start, self.eq = model.adv, model.adv_start, model.eq
        self.critic = PatchCritic(self.in_chans, model.critic_width) if model.adv else None
        self.trains_encoder = not model.decoder_only
        if model.decoder_only:
            self.encoder.requires_grad_(False)
            self.bottleneck.requires_grad_(False)
            kept = torch.zeros(2 + 2 * model.latent_dim, dtype=torch.float64)
            self.register_buffer("source_scale", kept)

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Noise:
        """Noise of the latents and transforms: a pure function of `seeds`."""
        seeds = mix_tensor(seeds)
        height, width = self.img_size
        transforms = draw_transforms(mix_tensor(seeds), self.eq, height == width)
        return Noise(latent=self.bottleneck.draw(seeds), transforms=transforms if self.eq else None)

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Noise, progress: Float[Tensor, ""]
    ) -> Output:
        """Reconstruct images from drawn latents, both transformed where the noise says so."""
        target = self.normalize(images)
        latent = self.posterior_sample(target, noise, progress)
        latents, image = latent.values, target
        if noise.transforms is not None:
            with full_precision(images.device):
                latents, target = (transform(one, noise.transforms) for one in (latents, target))
        prediction = self.decode_normalized(latents, target).to(target.dtype)
        with full_precision(images.device):
            errors = prediction - target
            losses = {"reconstruction": errors.abs().mean(), **latent.losses}
            psnr = self.psnr(errors.detach().square()).mean()
        losses |= self.feature_losses(image, latent.values, target, prediction)
        losses |= self.critic_losses(target, prediction, progress)
        return Output(losses, {"psnr": psnr, **latent.statistics}, latent.carry)

    def posterior_sample(
        self, target: Float[Tensor, "b c h w"], noise: Noise, progress: Float[Tensor, ""]
    ) -> Latent:
        """Latents of normalised images, drawn; without gradient where the encoder is kept."""
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            return self.bottleneck(encode_map(self.encoder, target), noise.latent, progress)

    def keep_scale(self, settings: Mapping[str, Any]) -> None:
        """Keep the scale of the latents in diffusers' settings, if the encoder is kept."""
        if self.trains_encoder:
            return
        first, shift = settings["scaling_factor"], settings.get("shift_factor") or 0.0
        moments = settings.get("latents_mean"), settings.get("latents_std")
        nothing = [0.0] * self.bottleneck.latent_dim
        values = [first, shift, *(moments[0] or nothing), *(moments[1] or nothing)]
        self.source_scale.copy_(torch.tensor(values, dtype=torch.float64))

    def image_latents(self, images: Shaped[Tensor, "b c h w"]) -> ImageLatents:
        """Mean and standard deviation of the latents, and the scale that is kept, if any."""
        return super().image_latents(images)._replace(scale=self.kept_scale())

    def kept_scale(self) -> dict[str, Any]:
        """Diffusers' settings given to `keep_scale`; empty: none were."""
        if self.trains_encoder or not self.source_scale.any():
            return {}
        first, shift, *moments = self.source_scale.tolist()
        mean, std = moments[: len(moments) // 2], moments[len(moments) // 2 :]
        return {
            "scaling_factor": first,
            "shift_factor": shift or None,
            "latents_mean": mean if any(std) or any(mean) else None,
            "latents_std": std if any(std) else None,
        }

    def feature_losses(
        self,
        image: Float[Tensor, "b c h w"],
        latents: Float[Tensor, "b n gh gw"],
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Perceptual distance of `target` and `prediction`, alignment of `latents` to `image`.

        All images are normalised; 0 without a frozen encoder.
        """
        losses = dict.fromkeys(("perceptual", "alignment"), target.new_zeros(()))
        if self.features is None:
            return losses
        if self.perceptual:
            with torch.no_grad():
                expected = self.features(self.unit(target))
            distance = feature_distance(self.features(self.unit(prediction)), expected)
            losses["perceptual"] = self.perceptual * distance
        if self.project is not None:
            with torch.no_grad():
                features = self.features(self.unit(image))[-1]
            aligned = alignment_loss(latents, self.project(latents), features, self.margins)
            losses["alignment"] = self.align * aligned
        return losses

    def critic_losses(
        self,
        target: Float[Tensor, "b c h w"],
        prediction: Float[Tensor, "b c h w"],
        progress: Float[Tensor, ""],
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Losses of generator and critic; 0 without a critic."""
        if self.critic is None:
            nothing = torch.zeros((), device=target.device, dtype=target.dtype)
            return {"generator": nothing, "critic": nothing}
        weight = generator_weight(self.adv, self.adv_start, progress)
        return adversarial_losses(self.critic, target, prediction, weight)
