"""U-Net without normalisation layers, for restoring images of any size.

As in Lehtinen et al. 2018 (arXiv:1803.04189, appendix A.1), after Ronneberger et al. 2015.  No
layer sees more than its neighbourhood, so that an image can be processed in tiles: normalisation
layers would make each pixel depend on the whole tile.
"""

import torch
from jaxtyping import Float
from timm.models import checkpoint
from torch import Tensor, nn

SLOPE = 0.1
"""slope of the leaky ReLU for negative numbers"""


class Convolutions(nn.Sequential):
    """3 x 3 convolutions, each followed by a leaky ReLU."""

    def __init__(self, in_chans: int, out_chans: int, depth: int) -> None:
        """`depth`: number of convolutions."""
        layers: list[nn.Module] = []
        for channels in (in_chans, *[out_chans] * (depth - 1)):
            layer = nn.Conv2d(channels, out_chans, 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)  # pyrefly: ignore
            layers += [layer, nn.LeakyReLU(SLOPE)]
        super().__init__(*layers)


class UNet(nn.Module):
    """Images → images of the same size, by convolutions at several resolutions.

    `stages` times the sides are halved by maximum pooling and doubled again, where the features
    before the pooling are appended.
    """

    def __init__(self, in_chans: int, out_chans: int, width: int, stages: int, depth: int) -> None:
        """`width`: channels at full resolution, doubled at each halving; `depth`: convolutions."""
        super().__init__()
        self.grad_checkpointing = False
        self.depth = depth
        widths = [width * 2**stage for stage in range(stages + 1)]
        self.down = nn.ModuleList()
        channels = in_chans
        for out in widths[:-1]:
            self.down.append(Convolutions(channels, out, depth))
            channels = out
        self.bottom = Convolutions(channels, widths[-1], depth)
        self.up = nn.ModuleList(
            [Convolutions(3 * out, out, depth) for out in reversed(widths[:-1])]
        )
        self.head = nn.Conv2d(width, out_chans, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # pyrefly: ignore

    @property
    def multiple(self) -> int:
        """Required divisor of an image's sides."""
        return 2 ** len(self.down)

    @property
    def reach(self) -> int:
        """Distance in pixels beyond which a pixel of the input does not affect the output."""
        levels = [2**stage for stage in range(len(self.down))]
        # At each level: convolutions on both ways, pooling, and the doubling of coarser features.
        return (
            sum((2 * self.depth + 2) * spacing for spacing in levels) + self.depth * self.multiple
        )

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        """Features at the lowest resolution."""
        return self._descend(images)[-1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """[b in_chans h w] → [b out_chans h w]; the sides must divide by `multiple`.

        0 everywhere in a fresh network.
        """
        *skipped, x = self._descend(images)
        for block, skip in zip(self.up, reversed(skipped), strict=True):
            x = torch.cat([_doubled(x), skip], dim=1)
            x = self._run(block, x)
        return self.head(x)

    def _descend(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Features at each resolution, from the highest."""
        found = []
        x = images
        for block in self.down:
            x = self._run(block, x)
            found.append(x)
            x = nn.functional.max_pool2d(x, 2)
        return [*found, self._run(self.bottom, x)]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x) if self.grad_checkpointing else block(x)


def _doubled(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h2 w2"]:
    """Each pixel as a square of four."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
