"""Reading of images for an export: the code that is printed, and the pixels that it must give.

The rule is that of `center_view`, with Pillow's resizing, as in timm.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config.sections import DataConfig
from mae.data.images import float_normalisation
from mae.data.transform import CenterFit, center_crop, center_fit, choose_crop_pct, cut
from mae.export.contract import ExportRequest

PICTURE, DEEP_PICTURE, ARRAY = "image.jpg", "image.tif", "image.npy"
"""image file in printed code; Pillow has neither 2 or 5 channels nor colours of 16 bits"""

PHOTOGRAPH = "photograph"
"""name of the expected tensor: a decoded image as the model's input, by the printed code"""

MODES = {1: "L", 3: "RGB"}

PREPARE = """\
def prepare(pixels):
    \"\"\"uint{bits} [height, width, {channels}] to float32 [1, {channels}, {tall}, {wide}].\"\"\"
    height, width = pixels.shape[:2]
{size}
    bands = [Image.fromarray(band) for band in np.atleast_3d(pixels).transpose(2, 0, 1){deep}]
    bands = np.stack([band.resize(size, Image.Resampling.BICUBIC) for band in bands]){whole}
    top, left = round((size[1] - {tall}) / 2), round((size[0] - {wide}) / 2)
    crop = bands[:, top : top + {tall}, left : left + {wide}] / {white}
    mean, std = np.array([{mean}, {std}])[..., None, None]
    return ((crop - mean) / std)[None].astype(np.float32)
"""
PREPARE_FLOATS = """\
def prepare(values):
    \"\"\"floats [{channels}, height, width] to float32 [1, {channels}, {tall}, {wide}].\"\"\"
    top, left = (values.shape[1] - {tall}) // 2, (values.shape[2] - {wide}) // 2
    crop = values[:, top : top + {tall}, left : left + {wide}].astype(np.float64)
    mean, std = np.array([{mean}, {std}])[..., None, None]
    return ((crop - mean) / std)[None].astype(np.float32)
"""
SHORT_SIDE = """\
    size = {side} * width // min(height, width), {side} * height // min(height, width)"""
COVERING = """\
    ratio = min(height / {tall}, width / {wide})
    size = round(width / ratio), round(height / ratio)"""


def is_picture(data: DataConfig) -> bool:
    """True where Pillow opens images of these channels and bits."""
    return data.bits == 8 and data.in_chans in MODES


class PixelsCode(NamedTuple):
    """Code that reads the pixels of an image file."""

    imports: str
    """lines of imports beside NumPy's"""
    expression: str
    """array [h w] or [h w c] (floats: [c h w])"""


def pixels_code(channels: int, bits: int) -> PixelsCode:
    """Code that reads the pixels of images of these channels and bits.

    Images of 16 bits are TIFF or PNG where they are grey, else TIFF where tifffile is installed.
    """
    pillow = "from PIL import Image\n"
    if bits == 8 and channels in MODES:
        return PixelsCode(pillow, f'np.array(Image.open("{PICTURE}").convert("{MODES[channels]}"))')
    if bits == 16 and channels == 1:
        return PixelsCode(pillow, f'np.array(Image.open("{DEEP_PICTURE}"), np.uint16)')
    if bits == 16 and find_spec("tifffile"):
        return PixelsCode("import tifffile\n", f'tifffile.imread("{DEEP_PICTURE}")')
    return PixelsCode("", f'np.load("{ARRAY}")')


def open_code(data: DataConfig) -> str:
    """Expression of a Pillow image, for `is_picture`."""
    return f'Image.open("{PICTURE}").convert("{MODES[data.in_chans]}")'


class ReadingCode(NamedTuple):
    """Code that makes `images`, the model's input, of an image file."""

    imports: str
    """lines of imports"""
    define: str
    """definition of a function, after the imports; may be empty"""
    read: str
    """statements"""


def prepare_code(request: ExportRequest, *, as_tensor: bool) -> ReadingCode:
    """Code with NumPy and Pillow alone; `images` is an array, or a tensor with `as_tensor`."""
    data, (tall, wide) = request.config.data, request.model.img_size
    share = choose_crop_pct(data.crop_pct, (tall, wide))
    side, other = int(tall / share), int(wide / share)
    deep = data.bits == 16
    facts = {"bits": data.bits, "channels": data.in_chans, "tall": tall, "wide": wide}
    prepare = (PREPARE_FLOATS if data.is_float else PREPARE).format(
        **facts,
        size=SHORT_SIDE.format(side=side)
        if side == other
        else COVERING.format(tall=side, wide=other),
        deep=".astype(np.float32)" * deep,
        whole=".round().clip(0, 65535)" * deep,
        white=2**data.bits - 1,
        mean=list(data.mean),
        std=list(data.std),
    )
    opened = pixels_code(data.in_chans, data.bits)
    prepared = f"prepare({opened.expression})"
    pillow = "from PIL import Image\n" * (not data.is_float)  # it resizes, whatever reads
    return ReadingCode(
        imports="import numpy as np\n"
        + opened.imports.replace(pillow, "")
        + "import torch\n" * as_tensor
        + pillow,
        define=f"\n\n{prepare}\n",
        read=f"images = torch.from_numpy({prepared})\n" if as_tensor else f"images = {prepared}\n",
    )


def expected_photograph(request: ExportRequest, *, rounds_down: bool = False) -> dict[str, Tensor]:
    """`ExportFiles.expected` of printed code: normalised view of `request.photograph`, [1 c h w].

    `rounds_down`: the crop begins at a whole number rounded down, as in transformers.  Empty
    without a photograph.
    """
    if request.photograph is None:
        return {}
    if request.config.data.is_float:
        crop = center_crop(request.photograph, request.model.img_size)
        return {PHOTOGRAPH: float_normalisation(request.config.data).of(crop)[None]}
    view = pillow_view(
        request.photograph, request.model.img_size, request.config.data.crop_pct, rounds_down
    )
    return {PHOTOGRAPH: request.normalize(view[None])}


def pillow_view(
    image: Tensor, size: tuple[int, int], crop_pct: float | None, rounds_down: bool = False
) -> Tensor:
    """`center_view` of an image [c h w], resized by Pillow channel by channel."""
    fit = center_fit(image.shape[-2], image.shape[-1], size, crop_pct)
    if rounds_down:
        top, left = (fit.height - size[0]) // 2, (fit.width - size[1]) // 2
        fit = CenterFit(fit.height, fit.width, top, left)
    deep = image.dtype == torch.uint16
    pixels = image.numpy().astype(np.float32 if deep else np.uint8)
    target = fit.width, fit.height
    bands = [Image.fromarray(band).resize(target, Image.Resampling.BICUBIC) for band in pixels]
    resized = np.stack([np.asarray(band) for band in bands])
    if deep:
        resized = resized.round().clip(0, 2**16 - 1).astype(np.uint16)
    return cut(torch.from_numpy(resized), fit, size).contiguous()


def write_photograph(image: Tensor, folder: Path) -> dict[str, str]:
    """Write an image [c h w] without loss; returns its file by its name in printed code.

    Floats stay [c h w], integers become [h w c].
    """
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    array = folder / "photograph.npy"
    np.save(array, image.numpy() if image.is_floating_point() else pixels)
    files = {ARRAY: str(array)}
    if image.dtype == torch.uint16:
        files[DEEP_PICTURE] = str(folder / "photograph.tif")
        if len(image) == 1:
            Image.fromarray(pixels[..., 0]).save(files[DEEP_PICTURE])
        elif find_spec("tifffile"):
            write_tiff: Any = import_module("tifffile").imwrite
            write_tiff(files[DEEP_PICTURE], pixels, photometric="minisblack", planarconfig="contig")
    if image.dtype == torch.uint8 and len(image) in MODES:
        files[PICTURE] = str(folder / "photograph.png")
        Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(files[PICTURE])
    return files
