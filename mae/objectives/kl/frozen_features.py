"""Losses in the features of a frozen Vision Transformer: perceptual distance, alignment of latents.

Weights are fixed: VA-VAE's adaptive weight is a ratio of gradient norms, which each process would
take of its own images only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mae.networks.encoders.registry import adapter_of
from mae.networks.patches import pixel_affine
from mae.networks.vit import encoder_shape, timm_encoder
from mae.objectives.base import FirstStage, full_precision
from mae.objectives.frozen import Frozen

LAYERS = 3
"""number of layers whose features are compared, evenly spaced, the last one included"""


class PatchFeatures(nn.Module):
    """Images in [0, 1] → maps of patch features of a few layers; resized to the encoder's size."""

    scale: Tensor
    shift: Tensor

    def __init__(self, stage: FirstStage) -> None:
        """`stage`: a model with a timm Vision Transformer (`timm_encoder`)."""
        super().__init__()
        vit, data = timm_encoder(stage.model), stage.config.data
        assert vit is not None
        self.frozen, self.img_size = Frozen(vit), stage.model.img_size
        self.width = encoder_shape(vit).embed_dim
        depth = len(adapter_of(vit).blocks(vit))
        self.layers = sorted({depth * (i + 1) // LAYERS - 1 for i in range(LAYERS)} - {-1})
        affine = pixel_affine(data.mean, data.std, data.in_chans, 1)
        self.register_buffer("scale", affine.scale.view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", affine.shift.view(-1, 1, 1), persistent=False)

    def forward(self, unit: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d gh gw"]]:
        """Features, the last layer's last; gradients reach the images."""
        if unit.shape[2:] != self.img_size:
            unit = F.interpolate(unit, size=self.img_size, mode="bilinear", antialias=True)
        vit, pixels = self.frozen.module, unit * self.scale + self.shift
        return adapter_of(vit).maps(vit, pixels, self.layers, norm=True)


def feature_distance(
    made: list[Float[Tensor, "b d gh gw"]], truth: list[Float[Tensor, "b d gh gw"]]
) -> Float[Tensor, ""]:
    """Squared distance of unit features, mean over positions and layers.

    LPIPS without learned weights (Zhang et al. 2018, arXiv:1801.03924, equation 1).
    """
    with full_precision(made[0].device):
        pairs = zip(made, truth, strict=True)
        distances = [(unit_length(a) - unit_length(b)).square().sum(dim=1).mean() for a, b in pairs]
        return torch.stack(distances).mean()


def unit_length(features: Float[Tensor, "b d ..."]) -> Float[Tensor, "b d ..."]:
    """Features of length 1 at each position, in at least single precision."""
    return F.normalize(precise(features), dim=1)


def precise(features: Tensor) -> Tensor:
    """Features in at least single precision."""
    return features.float() if features.dtype.itemsize < 4 else features


class Margins(NamedTuple):
    """Differences that cost nothing."""

    cosine: float
    distance: float


def alignment_loss(
    latents: Float[Tensor, "b n gh gw"],
    projected: Float[Tensor, "b d gh gw"],
    features: Float[Tensor, "b d fh fw"],
    margins: Margins,
) -> Float[Tensor, ""]:
    """Alignment of latents to features (VA-VAE: Yao et al. 2025, 2501.01423, equations 5 and 7).

    The cosine of each projected latent with the feature at its place, and the cosines of all pairs
    of latents of an image with those of the features.
    """
    with full_precision(latents.device):
        size = latents.shape[2:]
        if features.shape[2:] != size:
            features = F.interpolate(precise(features), size=size, mode="bilinear")
        flat = [unit_length(one.flatten(2)) for one in (latents, projected, features)]
        latents, projected, features = flat
        cosine = (projected * features).sum(dim=1)
        near = F.relu(1 - margins.cosine - cosine).mean()
        ours, theirs = (torch.einsum("bdi,bdj->bij", one, one) for one in (latents, features))
        return near + F.relu((ours - theirs).abs() - margins.distance).mean()
