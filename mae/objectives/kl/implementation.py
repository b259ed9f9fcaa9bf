"""Implementation of the autoencoder of latent diffusion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.evaluation.image_quality import high_frequency_energy, ssim, through_bicubic
from mae.export.contract import Writer
from mae.networks.patches import unit_values
from mae.networks.vit import parameter_groups, set_apart, timm_encoder
from mae.objectives.autoencoders.backbones import build_backbone, encode_map
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.implementation import (
    AutoencoderImplementation,
    Sums,
    psnr_of,
)
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.kl.bottleneck import KlBottleneck, channel_moments
from mae.objectives.kl.declaration import kl_model
from mae.objectives.kl.diffusers import load_initial, write_diffusers
from mae.objectives.kl.model import KlAutoencoder
from mae.objectives.kl.moments import scale_of
from mae.objectives.two_stage import build_first_stage
from mae.pretrained_weights.init_record import InitialWeights

DEAD = 0.01
"""standard deviation of a channel of the latents, below which it is dead"""

SHOWN_DEVIATIONS = 2.0
"""deviations from the mean at the ends of the scale of latents on panels"""


class KlImplementation(AutoencoderImplementation):
    """Implementation of the autoencoder of latent diffusion."""

    exports: ClassVar[Mapping[str, Writer]] = {
        "diffusers": write_diffusers,
        "onnx": write_onnx,
        "torch": write_programs,
    }

    def build(self, config: Config) -> KlAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config, double_z=True), kl_model(config)
        height, width = backbone.img_size
        bottleneck = KlBottleneck(
            backbone.encoded,
            model.latent_dim,
            weight=model.kl_weight,
            values=config.data.in_chans * height * width,
        )
        stage = None
        if model.frozen != Path():
            stage = build_first_stage(config)
            if timm_encoder(stage.model) is None:
                raise UserError(
                    f"model.frozen: {model.frozen} is of objective {stage.config.objective} "
                    "without a Vision Transformer: give a run of mae, or timm:NAME"
                )
        return KlAutoencoder(config, backbone, bottleneck, stage)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """The usual groups; those of the critic with a learning rate of their own."""
        assert isinstance(objective, KlAutoencoder)
        groups = parameter_groups(objective, config.optim.weight_decay)
        critic = objective.critic.parameters() if objective.critic is not None else ()
        return set_apart(groups, critic, lr_scale=kl_model(config).critic_lr_scale)

    def load_initial(self, objective: Objective, config: Config) -> InitialWeights | None:
        """Load a folder of diffusers' AutoencoderKL; None where init.from is none."""
        assert isinstance(objective, KlAutoencoder)
        return load_initial(objective, config)

    def further_columns(self, objective: Autoencoder, images: Tensor) -> Mapping[str, Tensor]:
        """First three channels of the latents as colours, or the first one."""
        latents = objective.latents(images).float()
        mean, std = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
        shown = ((latents - mean) / std.clamp(min=1e-6) / (2 * SHOWN_DEVIATIONS) + 0.5).clamp(0, 1)
        shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1]
        return {"latents": F.interpolate(shown, size=objective.img_size, mode="nearest-exact")}

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Quality of model and baselines, PSNR of bicubic, KL; moments and extremes of latents."""
        assert isinstance(objective, KlAutoencoder) and objective.baselines is not None
        truth = unit_values(images)
        latents = objective.latents(images)
        made = [
            objective.decode(latents).float(),
            objective.baselines.pca.reconstruct(truth).clamp(0, 1),
            through_bicubic(truth, latents[0].numel()),
        ]
        similar = torch.stack([ssim(one, truth).double().sum() for one in made])
        fine = torch.stack([high_frequency_energy(one).double().sum() for one in (truth, *made)])
        bicubic = psnr_of(made[2], truth).double().sum()[None]
        done = torch.ones((), device=images.device)
        features = encode_map(objective.encoder, objective.normalize(images))
        drawn = objective.bottleneck(features, objective.draw(images, seeds).latent, done)
        nats = drawn.statistics["kl_nats"].double()[None] * len(images)
        extremes = torch.cat([latents.amax((0, 2, 3)), -latents.amin((0, 2, 3))]).double()
        parts = [similar, fine, bicubic, nats, channel_moments(drawn.values), extremes]
        return torch.cat(parts).cpu().numpy()

    def maxima(self, objective: Autoencoder) -> int:
        """Largest latent of each channel, and largest negative one."""
        return 2 * objective.bottleneck.latent_dim

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """SSIM, fine detail, KL; scale of the latents, dead channels, outliers."""
        assert isinstance(objective, KlAutoencoder)
        names = ("", "_pca", "_bicubic")
        figures = {f"ssim{name}": sums[at] / images for at, name in enumerate(names)}
        for at, name in enumerate(names):
            figures[f"high_frequency{name}"] = sums[4 + at] / max(sums[3], 1e-12)
        figures |= {"psnr_bicubic": sums[7] / images, "kl_nats": sums[8] / images}
        sums, maxima = np.split(sums[9:], [-self.maxima(objective)])
        scale = scale_of(sums.tolist())
        assert scale is not None
        mean, std, overall = (np.array(one) for one in scale)
        highest, lowest = np.split(maxima, 2)
        furthest = np.maximum(highest - mean, lowest + mean) / np.maximum(std, 1e-12)
        figures |= {"latent_std": overall, "max_z": furthest[std >= DEAD].max(initial=0.0)}
        trained = objective.bottleneck.scale()
        if trained and trained.overall_std:
            figures["scaled_std"] = overall / trained.overall_std
        return {
            **{key: float(value) for key, value in figures.items()},
            "dead_channels": int((std < DEAD).sum()),
            "latent_channel_std": std.tolist(),
        }


IMPLEMENTATION = KlImplementation()
