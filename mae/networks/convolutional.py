"""Convolutional encoder and decoder that halve and double the image in stages, without pooling.

A stage of the encoder is a space-to-depth rearrangement (PixelUnshuffle), which loses nothing, a
convolution and residual blocks; a stage of the decoder is the reverse (PixelShuffle: Shi et al.
2016, arXiv:1609.05158).
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

GROUPS = 8
"""groups of the group normalisation; the width must be a multiple"""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation before each, added to the input.

    Full pre-activation (He et al. 2016, arXiv:1603.05027).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """[b c h w] → [b c h w]."""
        y = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(y)))


def stage_widths(width: int, stages: int) -> list[int]:
    """Channels after each stage: doubled from stage to stage, up to 8 times `width`."""
    return [width * min(2**stage, 8) for stage in range(stages)]


class ConvEncoder(nn.Module):
    """Images → map of features, 2^stages times smaller."""

    def __init__(self, in_chans: int, width: int, stages: int, depth: int) -> None:
        """Build `stages` stages of `depth` residual blocks.

        `width`: channels of the first stage, a multiple of `GROUPS`.
        """
        super().__init__()
        self.grad_checkpointing = False
        self.stages = nn.ModuleList()
        channels = in_chans
        for out in stage_widths(width, stages):
            blocks = [ResidualBlock(out) for _ in range(depth)]
            entry = nn.Conv2d(4 * channels, out, 3, padding=1)
            self.stages.append(nn.Sequential(nn.PixelUnshuffle(2), entry, *blocks))
            channels = out
        self.out_channels = channels

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        """[b c h w] → [b d h/2^stages w/2^stages]; the sides must divide by 2^stages."""
        x = images
        for stage in self.stages:
            x = checkpoint(stage, x) if self.grad_checkpointing else stage(x)
        return x


class ConvDecoder(nn.Module):
    """Map of features → images, 2^stages times larger: the encoder's stages in reverse."""

    def __init__(self, out_chans: int, width: int, stages: int, depth: int) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.stages = nn.ModuleList()
        widths = [out_chans, *stage_widths(width, stages)]
        for out, channels in reversed(list(pairwise(widths))):
            blocks = [ResidualBlock(channels) for _ in range(depth)]
            last = nn.Conv2d(channels, 4 * out, 3, padding=1)
            self.stages.append(nn.Sequential(*blocks, last, nn.PixelShuffle(2)))
        self.in_channels = widths[-1]

    def forward(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b c h w"]:
        """[b d h/2^stages w/2^stages] → [b c h w]."""
        x = features
        for stage in self.stages:
            x = checkpoint(stage, x) if self.grad_checkpointing else stage(x)
        return x
