"""Convolutional networks of latent diffusion (Rombach et al. 2021), as in diffusers.

The modules are diffusers' own, so that a trained model goes into its classes without renaming.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mae.base.errors import UserError

WIDTHS = (1, 2, 4, 4)
"""channels of each level as multiples of the first's; further levels have the last's"""


class LdmSettings(NamedTuple):
    """Sizes of encoder and decoder, in diffusers' terms."""

    in_channels: int
    latent_channels: int
    width: int
    """channels of the first level, a multiple of 8"""
    stages: int
    """number of halvings: one less than levels"""
    depth: int
    """residual blocks per level of the encoder; the decoder has one more"""

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        levels = range(self.stages + 1)
        return tuple(self.width * WIDTHS[min(level, len(WIDTHS) - 1)] for level in levels)

    @property
    def norm_num_groups(self) -> int:
        """Groups of the group normalisation: 32, or 8 where the width is no multiple of 32."""
        return 32 if self.width % 32 == 0 else 8

    def model_settings(self) -> dict[str, object]:
        """Arguments that diffusers' autoencoders share."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.in_channels,
            "down_block_types": ("DownEncoderBlock2D",) * (self.stages + 1),
            "up_block_types": ("UpDecoderBlock2D",) * (self.stages + 1),
            "block_out_channels": self.block_out_channels,
            "layers_per_block": self.depth,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.norm_num_groups,
        }


def require_diffusers() -> None:
    """Raise UserError without diffusers."""
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise UserError(
            "model.backbone: ldm needs diffusers: pip install 'maekit[diffusers]'"
        ) from None


class Upsample(nn.Module):
    """diffusers' Upsample2D without its branch on the batch size, which graphs cannot have."""

    def __init__(self, conv: nn.Module) -> None:
        """`conv`: the convolution of an Upsample2D."""
        super().__init__()
        self.conv = conv

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """[b c h w] → [b d 2h 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def build_ldm(settings: LdmSettings, *, double_z: bool = False) -> tuple[nn.Module, nn.Module]:
    """Build encoder (images → map of latent_channels) and decoder.

    `double_z`: the encoder's map has twice as many channels, for means and log-variances.  Raises
    UserError without diffusers.
    """
    require_diffusers()
    from diffusers.models.autoencoders import vae

    shared = {
        "block_out_channels": settings.block_out_channels,
        "layers_per_block": settings.depth,
        "norm_num_groups": settings.norm_num_groups,
        "mid_block_add_attention": True,
    }
    encoder = vae.Encoder(
        in_channels=settings.in_channels,
        out_channels=settings.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * (settings.stages + 1),
        double_z=double_z,
        **shared,
    )
    decoder = vae.Decoder(
        in_channels=settings.latent_channels,
        out_channels=settings.in_channels,
        up_block_types=("UpDecoderBlock2D",) * (settings.stages + 1),
        **shared,
    )
    blocks: Any = decoder.up_blocks
    for block in blocks:
        if block.upsamplers is not None:
            block.upsamplers = nn.ModuleList(Upsample(one.conv) for one in block.upsamplers)
    return encoder, decoder
