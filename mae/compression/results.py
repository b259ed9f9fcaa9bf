"""Image files that decompressed pixels become: their names, and their content."""

import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from torch import Tensor

from mae.compression.container import Kind
from mae.decoding.pillow import MODES

Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

TIFF = ("tif", "tiff")


def result_names(name: str, names: Sequence[str], kinds: Sequence[Kind]) -> list[str]:
    """Names of the images of the file `name`; `names`: as the file records them.

    A single image without a recorded name has that of the file; others lie in a folder of that
    name.
    """
    folder = PurePosixPath(name.removesuffix(".tar"))
    whole = [f"{folder}/{one}" for one in names] or [name]
    return [with_ending(one, kind) for one, kind in zip(whole, kinds, strict=True)]


def with_ending(name: str, kind: Kind) -> str:
    """Name of an image of this kind: PNG and TIFF keep their ending, if they can hold the pixels.

    Others get one more: TIFF for more than 4 channels, and for colours of 16 bits.
    """
    ending = PurePosixPath(name).suffix[1:].lower()
    if ending in TIFF:
        return name
    fits = kind.colours in MODES and (kind.bits == 8 or kind.colours == 1)
    if not fits:
        return f"{name}.tif"
    return name if ending == "png" else f"{name}.png"


def encoded(pixels: Values, name: str) -> bytes:
    """PNG or, by the ending of `name`, TIFF of pixels [h w c]."""
    file, channels = io.BytesIO(), pixels.shape[2]
    squeezed = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels)
    if PurePosixPath(name).suffix[1:].lower() not in TIFF:
        mode = MODES[channels] if pixels.dtype == np.uint8 else None
        Image.fromarray(squeezed, mode).save(file, "PNG")
        return file.getvalue()
    tifffile.imwrite(
        file,
        squeezed,
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        compression="zlib",
        metadata=None,
        software=False,
    )
    return file.getvalue()


def stored_pixels(picture: Tensor, kind: Kind) -> Values:
    """Pixels [h w c] of an image [c h w] in [0, 1], in the channels and bits of its original."""
    if kind.colours < len(picture):
        picture = picture.mean(dim=0, keepdim=True)
    white = 2**kind.bits - 1
    values = (picture.double().clamp(0, 1) * white).round().numpy()
    return values.astype(np.uint8 if kind.bits == 8 else np.uint16).transpose(1, 2, 0)
