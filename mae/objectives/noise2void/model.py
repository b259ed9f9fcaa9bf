"""Denoiser that learns from noisy images: by blind spots, or from pairs.

Blind spots (Noise2Void, Krull et al. 2019, section 3.3): pixels are replaced in the input, and
predicted there.  As the noise of a pixel cannot be told from its surroundings, the prediction
tends to the clean pixel.  Such a network need not denoise pixels that it sees; so results are put
together from passes that hide each pixel once (J-invariance, Batson and Royer 2019, section 2).

Pairs (Noise2Noise, Lehtinen et al. 2018, section 2): one noisy image is predicted from another of
the same scene; under squared error the noise of the target averages out.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.config.sections import Config
from mae.networks.unet import UNet
from mae.objectives.autoencoders.pixels import PixelObjective
from mae.objectives.base import Features, Output, full_precision
from mae.objectives.capabilities import Reconstruction
from mae.objectives.noise2void.declaration import model_of
from mae.objectives.noise2void.masking import (
    PASS_GRID,
    BlindSpots,
    Spots,
    for_channels,
    grid_masks,
    interpolated,
)
from mae.objectives.noise2void.tiling import continued, in_tiles

TILE = 256
"""side in pixels of the tiles that larger images are processed in; a multiple of all others"""


class Pair(NamedTuple):
    """Images of one scene, normalised."""

    noisy: Float[Tensor, "b c h w"]
    second: Float[Tensor, "b c h w"] | None
    """another noisy image, or a clean one; None: there is none"""


class Denoiser(PixelObjective):
    """U-Net that adds a correction to its input; mean squared error of noisy pixels.

    Images [b c h w], or pairs stacked along the channels, [b 2c h w].
    """

    def __init__(self, config: Config, img_size: tuple[int, int]) -> None:
        """Raises UserError as `PixelObjective`."""
        super().__init__(config.data, img_size)
        model, channels = model_of(config), config.data.in_chans
        self.spots = None
        if model.method == "noise2void":
            self.spots = BlindSpots(model.grid, model.replacement, model.radius)
        self.network = UNet(channels, channels, model.width, model.stages, model.depth)
        self.multiple = max(self.network.multiple, PASS_GRID)
        """required divisor of the sides of images, for `denoise_normalized`"""
        reach = self.network.reach + 1  # an interpolated pixel sees one further
        self.margin = -(-reach // self.multiple) * self.multiple
        """overlap of tiles in pixels"""

    def draw(
        self,
        images: Shaped[Tensor, "b c h w"],
        seeds: Int[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Spots | None:
        """Hidden pixels, a function of each sample's seed; None for pairs."""
        return self.spots.draw(seeds, self.img_size) if self.spots else None

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Spots | None, progress: Float[Tensor, ""]
    ) -> Output:
        """Predict hidden pixels from the others, or the second image from the first."""
        noisy, second = self.split(images)
        if noise is None:
            # Benchmarks give single images, whose step costs the same.
            errors = self.errors(self.correct(noisy), noisy if second is None else second)
        else:
            prediction = self.correct(self.hide(noisy, noise))
            errors = self.errors_at(prediction, noisy, noise)
        with full_precision(images.device):
            statistics = {"psnr_target": self.psnr(errors.detach()).mean()}
            return Output({"noisy_pixels": errors.mean()}, statistics, {})

    def split(self, images: Shaped[Tensor, "b c h w"]) -> Pair:
        """Normalised first and second images."""
        first, second = images[:, : self.in_chans], images[:, self.in_chans :]
        return Pair(self.normalize(first), self.normalize(second) if second.shape[1] else None)

    def hide(self, noisy: Float[Tensor, "b c h w"], noise: Spots) -> Float[Tensor, "b c h w"]:
        """Normalised images with their hidden pixels replaced."""
        assert self.spots is not None
        with full_precision(noisy.device):
            return self.spots.hide(noisy, noise)

    def correct(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """One pass of the network, in the precision of its inputs."""
        return inputs + self.network(inputs).to(inputs.dtype)

    def errors(
        self, prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Squared errors."""
        return (prediction - target).square()

    def errors_at(
        self,
        prediction: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        noise: Spots,
    ) -> Float[Tensor, "b c n 1"]:
        """Squared errors of the hidden pixels."""
        where = for_channels(noise.hidden, target)
        hidden = [one.flatten(2).gather(2, where) for one in (prediction, target)]
        return (hidden[0] - hidden[1]).square()[..., None]

    def encode(self, images: Shaped[Tensor, "b c h w"]) -> Features:
        """Mean over positions of the features at the lowest resolution."""
        features = self.network.features(self.split(images).noisy)
        return Features({"mean": features.mean((2, 3))})

    # Denoising

    def denoise_normalized(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoise normalised images, whose sides divide by `multiple`, to pixels in [0, 1].

        By blind spots: each pixel is taken from the pass that hides it.
        """
        if self.spots is None:
            return self.unit(self.correct(images)).clamp(0, 1)
        ones = torch.ones_like(images[:1, :1])
        with full_precision(images.device):
            around = interpolated(images, ones)
        result = torch.zeros_like(images)
        for hidden in grid_masks(images.shape[2], images.shape[3], images.device):
            result = result + hidden * self.correct(torch.where(hidden, around, images))
        return self.unit(result).clamp(0, 1)

    def denoise_plain(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """One pass that hides nothing, to pixels in [0, 1]; sides as in `denoise_normalized`."""
        return self.unit(self.correct(images)).clamp(0, 1)

    @torch.no_grad()
    def denoise(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Denoise images of any size, integers or normalised floats; pixels in [0, 1].

        Images larger than a tile are processed in tiles, one after another.
        """
        inputs = self.normalize(images)
        height, width = inputs.shape[2:]
        if height <= TILE and width <= TILE:
            rows, columns = (
                torch.from_numpy(continued(side, self.multiple)).to(inputs.device)
                for side in (height, width)
            )
            padded = inputs[:, :, rows][..., columns]
            return self.denoise_normalized(padded)[:, :, :height, :width]

        def run(tile):
            return self.denoise_normalized(torch.from_numpy(tile).to(inputs.device)).cpu().numpy()

        done = in_tiles(run, inputs.cpu().numpy(), self.multiple, self.margin, TILE)
        return torch.from_numpy(done).to(inputs.device)

    @torch.no_grad()
    def reconstruct(self, images: Shaped[Tensor, "b c h w"], noise: Spots | None) -> Reconstruction:
        """Denoise the images as they are; `noise` is not used."""
        noisy = self.split(images).noisy
        return Reconstruction(self.denoise(noisy), inputs=self.unit(noisy))

    def encoder_module(self) -> nn.Module:
        """The way down of the network."""
        return nn.ModuleList([self.network.down, self.network.bottom])
