"""Resizing of crops on the device, so that the CPU only decodes and copies.

Resizing is two batched matrix products with the kernels of PIL's antialiased bicubic filter; the
crops of a group are padded to its largest.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mae.data.batch import Crops
from mae.data.transform import View

CUBIC = -0.5
"""parameter `a` of cubic convolution (Keys 1981), the value of PIL"""
LARGEST_GROUP = 2**24
"""maximum number of elements in a padded float buffer (a single crop may exceed it)"""


def pack_crops(images: Iterable[Tensor], views: list[View]) -> Crops:
    """Crop uint8 or uint16 images [c h w] to `views`, without resizing.

    `images` may be a generator that decodes: each image is copied before the next is taken.
    """
    boxes = torch.tensor([(view.height, view.width) for view in views])
    pixels, channels, end = torch.empty(0), 0, 0
    for image, view in zip(images, views, strict=True):
        image = image.view(torch.int16) if image.dtype == torch.uint16 else image
        if not end:
            channels = len(image)
            pixels = torch.empty(int(boxes.prod(1).sum()) * channels, dtype=image.dtype)
        part = image[:, view.top : view.top + view.height, view.left : view.left + view.width]
        start, end = end, end + part.numel()
        pixels[start:end].view(view.height, view.width, channels).copy_(part.permute(1, 2, 0))
    flips = torch.tensor([view.flip for view in views])
    return Crops(pixels, boxes[:, 0], boxes[:, 1], flips, channels)


def resize_crops(crops: Crops, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """uint8 or uint16 [b c *size] on `device`, in the order of the views.

    Equal within rounding to PIL's crop and resize (8 bits) or to `apply_view` (16 bits, which PIL
    lacks in colour).
    """
    areas = crops.heights * crops.widths
    starts = areas.cumsum(0) - areas
    order = areas.argsort(descending=True)
    heights, widths = crops.heights[order], crops.widths[order]
    # One copy of all sizes and positions: the loop below never synchronises with the device.
    table = torch.stack([order, starts[order], heights, widths, crops.flips[order].long()])
    table = table.to(device, non_blocking=True)
    pixels = crops.pixels.to(device, non_blocking=True).view(-1, crops.channels)
    out = torch.empty(len(order), crops.channels, *size, dtype=pixels.dtype, device=device)
    for group, tallest, widest in _groups(heights.tolist(), widths.tolist(), crops.channels):
        rows, start, height, width, flip = table[:, group].unbind()
        padded = _pad(pixels, start, height=height, width=width, tallest=tallest, widest=widest)
        out.index_copy_(0, rows, _resize(padded, height, width, flip, size))
    return out.view(torch.uint16) if out.dtype == torch.int16 else out


def _groups(
    heights: list[int], widths: list[int], channels: int
) -> Iterator[tuple[slice, int, int]]:
    """Groups of consecutive crops, the height and width to pad each to.

    A padded group has at most LARGEST_GROUP elements.
    """
    start, height, width = 0, 0, 0
    for number, (h, w) in enumerate(zip(heights, widths, strict=True)):
        taller, wider = max(height, h), max(width, w)
        if number > start and (number + 1 - start) * taller * wider * channels > LARGEST_GROUP:
            yield slice(start, number), height, width
            start, taller, wider = number, h, w
        height, width = taller, wider
    yield slice(start, len(heights)), height, width


def _pad(
    pixels: Tensor, start: Tensor, height: Tensor, width: Tensor, tallest: int, widest: int
) -> Tensor:
    """The boxes of a group, padded by repeating their edges: [g tallest widest c]."""
    y = torch.arange(tallest, device=pixels.device).minimum(height[:, None] - 1)
    x = torch.arange(widest, device=pixels.device).minimum(width[:, None] - 1)
    return pixels[start[:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None, :]]


def _resize(
    padded: Tensor, height: Tensor, width: Tensor, flip: Tensor, size: tuple[int, int]
) -> Tensor:
    """[g h w c] → [g c *size] of the same type: along the rows first, as in `apply_view`.

    Old versions of PIL do the same; newer ones start with the columns where these shrink and the
    rows grow.
    """
    group, tallest, widest, channels = padded.shape
    deep = padded.dtype == torch.int16
    image = padded.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if deep:  # int16 with the bits of uint16
        image = torch.where(image < 0, image + 2**16, image)
    across = _kernels(width, size[1], widest, flip)
    down = _kernels(height, size[0], tallest, torch.zeros_like(flip))
    with torch.autocast(padded.device.type, enabled=False):
        image = image.view(group, channels * tallest, widest) @ across.mT
        # PIL rounds to 8 bits between the two passes; without it one pixel in five differs.
        image = image if deep else _whole(image, 255)
        image = down[:, None] @ image.view(group, channels, tallest, size[1])
    if deep:  # through int32, which wraps where int16 would saturate on some devices
        return _whole(image, 2**16 - 1).to(torch.int32).to(torch.int16)
    return _whole(image, 255).to(torch.uint8)


def _whole(image: Tensor, top: int) -> Tensor:
    return image.add_(0.5).floor_().clamp_(0, top)


def _kernels(lengths: Tensor, size: int, longest: int, flip: Tensor) -> Tensor:
    """Resizing weights, float32 [g size longest], from `lengths` [g] pixels to `size` pixels.

    Input pixel j lies at j + 1/2, the centre of output pixel i at (i + 1/2) · length / size; the
    kernel is stretched by length / size where the image shrinks.  Distances are computed in
    integers up to one division, so that they are exact and symmetric.
    """
    device = lengths.device
    lengths = lengths[:, None, None]
    i = torch.arange(size, device=device)[:, None]
    i = torch.where(flip[:, None, None] > 0, size - 1 - i, i)
    j = torch.arange(longest, device=device)
    distance = ((2 * j + 1) * size - (2 * i + 1) * lengths).abs()
    x = distance.float() / (2 * lengths.clamp(min=size))
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    weights = torch.where(x < 1, near, far) * ((x < 2) & (j < lengths))
    return weights / weights.sum(2, keepdim=True)
