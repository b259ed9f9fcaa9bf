"""Pictures of where in an image a latent fires."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mae.pictures.drawing import STEPS, ramp

MIN_BRIGHTNESS = 0.3
"""brightness of patches in which a latent does not fire, of 1"""


def lit(
    pictures: Float[Tensor, "m c h w"], maps: Float[Tensor, "m rows columns"]
) -> Float[Tensor, "m 3 h w"]:
    """Pictures in [0, 1], dark where the maps are 0, with a heat map above."""
    size = pictures.shape[-2], pictures.shape[-1]
    share = (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).clamp(0, 1)
    share = F.interpolate(share[:, None], size=size, mode="nearest-exact")
    heat = ramp()[(share[:, 0] * (STEPS - 1)).round().long()].movedim(-1, 1)
    dark, bright = MIN_BRIGHTNESS * coloured(pictures), 0.5 * coloured(pictures) + 0.5 * heat
    return dark.lerp(bright, share)


def coloured(pictures: Float[Tensor, "m c h w"]) -> Float[Tensor, "m 3 h w"]:
    """First three channels, or the first one as grey."""
    return pictures[:, :3] if pictures.shape[1] >= 3 else pictures[:, :1].expand(-1, 3, -1, -1)
