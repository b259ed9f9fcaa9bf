"""Views of decoded images, uint8 or uint16: random resized crop, flip, centre crop, augmentation.

Random views are pure functions of a key, so they do not depend on the process that makes them.
Resizing is bicubic with antialiasing, within rounding of PIL's.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Words, uniforms

ATTEMPTS = 10
"""number of random crops tried before the fallback"""
DRAWS = 4 * ATTEMPTS + 1
"""random numbers per view: area, ratio, top and left of each attempt, and the flip"""

CENTER_RULE = "2: timm's resize, then crop"
"""version of `center_view`, part of the key of cached features; raise it when pixels change"""
LONGEST = 16
"""longest side of an image that is resized whole, as a multiple of the other"""

Uniforms = npt.NDArray[np.float64]


class View(NamedTuple):
    """A crop box in pixels, and whether to mirror it."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    turns: int = 0
    """quarter turns counter-clockwise, after mirroring"""


def draw_views(keys: Words) -> Uniforms:
    """[b] keys → [b DRAWS] uniform numbers in [0, 1): all random numbers of b views."""
    return uniforms(keys, DRAWS)


def random_view(
    height: int,
    width: int,
    draws: Sequence[float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
    clamp: bool = False,
) -> View:
    """Random resized crop (Szegedy et al. 2014) as in torchvision, from one row of `draw_views`.

    ATTEMPTS tries of an area in `scale` (as a share of the image's) and a ratio of width to height
    in `ratio`, uniform in its logarithm; then the largest centred crop with a ratio in that range.
    With `clamp` one draw, whose sides are cut to the image's: such crops are larger on average.
    """
    mirrored = bool(flip and draws[-1] < 0.5)
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for start in range(0, 4 * ATTEMPTS, 4):
        area_u, ratio_u, top_u, left_u = draws[start : start + 4]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        aspect = math.exp(log_low + (log_high - log_low) * ratio_u)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if clamp:
            w, h = min(max(w, 1), width), min(max(h, 1), height)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(top_u * (height - h + 1)), int(left_u * (width - w + 1))
            return View(top, left, h, w, mirrored)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    return View((height - h) // 2, (width - w) // 2, h, w, mirrored)


def native_view(
    height: int,
    width: int,
    draws: Sequence[float],
    size: tuple[int, int],
    flip: bool,
    turns: bool,
) -> View:
    """Random crop of `size` without resizing, uniform over its places, from a row of `draw_views`.

    The image must be as large as the crop.
    """
    top, left = int(draws[0] * (height - size[0] + 1)), int(draws[1] * (width - size[1] + 1))
    quarter = int(4 * draws[2]) if turns else 0
    return View(top, left, *size, bool(flip and draws[-1] < 0.5), quarter)


def apply_view(image: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Crop, resize, flip and turn: uint8 or uint16 [c h w] → [c *size] of the same type.

    A crop of `size` is not resampled.  The image may have any strides.
    """
    part = image[None, :, view.top : view.top + view.height, view.left : view.left + view.width]
    if (view.height, view.width) == size:
        return _oriented(part[0], view)
    assert not view.turns
    if image.dtype == torch.uint16:  # torch does not resize it, and older versions do not flip it
        part = F.interpolate(part.float(), size=size, mode="bicubic", antialias=True)
        part = part.flip(-1) if view.flip else part
        return part[0].round_().clamp_(0, 65535).to(torch.uint16)
    # uint8 is resized natively, and fastest where dense and channels last.
    part = part.contiguous(memory_format=torch.channels_last)
    part = F.interpolate(part, size=size, mode="bicubic", antialias=True)[0]
    return part.flip(-1) if view.flip else part


def apply_view_into(image: Tensor, view: View, out: Tensor) -> None:
    """`apply_view` into a row of a batch: `out` is [c H W], of the image's type.

    Cheapest for a contiguous batch: flipping channels-last pixels costs more than the change of
    memory format.
    """
    out.copy_(apply_view(image, view, (out.shape[-2], out.shape[-1])))


def _oriented(part: Tensor, view: View) -> Tensor:
    """A crop [c h w], mirrored and turned."""
    if not (view.flip or view.turns):
        return part
    bits = part.view(torch.int16) if part.dtype == torch.uint16 else part
    bits = bits.flip(-1) if view.flip else bits
    return bits.rot90(view.turns, (-2, -1)).view(part.dtype)


class CenterFit(NamedTuple):
    """Size in pixels that an image is resized to, and the corner of the crop in it."""

    height: int
    width: int
    top: int
    left: int


def choose_crop_pct(chosen: float | None, size: tuple[int, int]) -> float:
    """`chosen`, or by default 0.875 (224 of 256 px) up to 224 px and 1 for larger views.

    The default is that of the fine-tuning code of the MAE release.
    """
    if chosen is not None:
        return chosen
    return 0.875 if max(size) <= 224 else 1.0


def center_fit(height: int, width: int, size: tuple[int, int], crop_pct: float | None) -> CenterFit:
    """Geometry of `center_view` for an image of `height` by `width` pixels, as timm computes it.

    Where both sides of `size` give the same floor(side / crop_pct), that is the resized short side;
    else the smallest size that covers both.
    """
    share = choose_crop_pct(crop_pct, size)
    target = [math.floor(side / share) for side in size]
    if target[0] == target[1]:
        short, long = target[0], int(target[0] * max(height, width) / min(height, width))
        tall, wide = (long, short) if width <= height else (short, long)
    else:
        ratio = min(height / target[0], width / target[1])
        tall, wide = round(height / ratio), round(width / ratio)
    # round() to the nearest even number, as torchvision's CenterCrop
    return CenterFit(tall, wide, round((tall - size[0]) / 2), round((wide - size[1]) / 2))


def center_view(image: Tensor, size: tuple[int, int], crop_pct: float | None) -> Tensor:
    """View for evaluation: resize the short side to size / crop_pct, crop the centre; [c *size].

    The rule of timm's evaluation transform.  Pixels differ from those of Pillow, which timm
    resizes with, in about 3 of 1,000, by 1 or 2 of 255.
    """
    image = trim(image)
    fit = center_fit(image.shape[-2], image.shape[-1], size, crop_pct)
    whole = View(0, 0, image.shape[-2], image.shape[-1], False)
    return cut(apply_view(image, whole, (fit.height, fit.width)), fit, size)


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of an image [c h w], not resized: [c *size].  It must be as large."""
    top, left = (image.shape[-2] - size[0]) // 2, (image.shape[-1] - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


def trimmed(height: int, width: int) -> tuple[int, int]:
    """Height and width of the part of an image that `trim` leaves."""
    return min(height, LONGEST * width), min(width, LONGEST * height)


def trim(image: Tensor) -> Tensor:
    """The middle of an image [… h w] that is more than LONGEST times as long as wide.

    Its whole length, resized, might not fit into memory; the crop takes its centre alone.
    """
    height, width = image.shape[-2:]
    tall, wide = trimmed(height, width)
    top, left = (height - tall) // 2, (width - wide) // 2
    return image[..., top : top + tall, left : left + wide]


def cut(resized: Tensor, fit: CenterFit, size: tuple[int, int]) -> Tensor:
    """Crop a resized image [… h w] to `size`."""
    return resized[..., fit.top : fit.top + size[0], fit.left : fit.left + size[1]]


def stack(images: list[Tensor]) -> Tensor:
    """Images [c h w] of one shape → a contiguous batch [b c h w]."""
    return torch.stack(images).contiguous()


Augment = Callable[[Tensor, int], Tensor]
"""function of uint8 [3 h w] and a 64-bit key → uint8 [3 h w]"""


def build_augment(
    policy: str, mean: Sequence[float], size: tuple[int, int], setting: str = "policy"
) -> Augment:
    """Timm's RandAugment `policy`, set up as in MAE's fine-tuning.

    Translations are at most 0.45 of the shorter side, uncovered pixels are filled with the mean.
    Raises UserError, naming `setting`, where timm does not know `policy`.
    """
    from timm.data.auto_augment import rand_augment_transform  # heavier than the whole loader

    settings = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": tuple(round(255 * value) for value in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        transform = rand_augment_transform(policy, settings)
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(f"{setting}: {policy!r}: timm has no such policy") from error
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterize

    def augment(view: Tensor, key: int) -> Tensor:
        with seeded(key):
            image = transform(Image.fromarray(view.permute(1, 2, 0).contiguous().numpy()))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    return augment


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch's CPU with a 64-bit key meanwhile."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.random.default_generator.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep `bits` bits per channel; with 0 the image is black, which newer Pillow refuses to do."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)
