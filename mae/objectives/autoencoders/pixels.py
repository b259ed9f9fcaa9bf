"""Objective with images as input and output: normalisation of pixels, and PSNR."""

from jaxtyping import Float, Shaped
from torch import Tensor

from mae.config.sections import DataConfig
from mae.decoding.pixels import white_of
from mae.networks.patches import affine_of, computable
from mae.objectives.base import Objective


class PixelObjective(Objective):
    """Objective whose networks compute with normalised pixels.

    Images are uint8 or uint16, [b c h w]; the model normalises them on the device.  Floating-point
    images are taken as normalised: always with data.bits 32, where they are also the units of
    reconstructions, which are not cut to [0, 1] then.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, data: DataConfig, img_size: tuple[int, int]) -> None:
        """Raises UserError where data.mean and data.std are not one number per channel."""
        super().__init__()
        self.img_size = img_size
        self.in_chans = data.in_chans
        self.white, self.is_float = white_of(data.bits), data.is_float
        affine = affine_of(data.mean, data.std, data.in_chans, data.bits)
        self.register_buffer("pixel_scale", affine.scale.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_shift", affine.shift.view(-1, 1, 1), persistent=False)

    def normalize(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise integer images; floats pass unchanged."""
        if images.is_floating_point():
            return images
        return computable(images) * self.pixel_scale + self.pixel_shift

    def unit(self, normalized: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalised images → pixels in [0, 1], where the image lies in the range."""
        return (normalized - self.pixel_shift) / (self.pixel_scale * self.white)

    def bounded(self, unit: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pixels cut to [0, 1]; floats as they are."""
        return unit if self.is_float else unit.clamp(0, 1)

    def psnr(self, errors: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """PSNR of each image in dB from squared errors of normalised pixels; at most 100 dB.

        Of floats the peak is one standard deviation: the mean of all has 0 dB.
        """
        unit_errors = errors / (self.pixel_scale * self.white).square()
        return -10 * unit_errors.mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()
