"""Images in `.npy` files, of shape [h w], [h w c] or [c h w]; maps of floats.

The channel axis is the last axis if its length is the requested number of channels, else the
first if its length is, else (or if no number is requested) the shorter of the two, and the last if
they are equal.  `check_axes` refuses shapes for which that guess may be wrong.  Of floats, which
are feature maps and latents and no pictures, it is the first axis unless only the last has the
requested length.
"""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from mae.decoding.pixels import (
    FLOAT_BITS,
    BadImage,
    ImageInfo,
    Pixels,
    check_size,
    undecodable,
)

MAGIC = b"\x93NUMPY"

# Plausible images for `check_axes`: the longer side is at most 4 times the shorter one, there are
# at most 512 channels, and an axis of at most 4 that is shorter than the sides holds channels.
MAX_ASPECT_RATIO = 4
MAX_CHANNELS = 512
FEW_CHANNELS = 4
FLOAT_BYTES = (2, 4, 8)


class NpyHeader(NamedTuple):
    """Header of a `.npy` file."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    start: int
    """offset of the values in bytes"""
    channel_axis: int | None
    """0 or 2; None for [h w]"""

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        if self.channel_axis is None:
            height, width = self.shape
            return height, width, 1
        height, width = (n for axis, n in enumerate(self.shape) if axis != self.channel_axis)
        return height, width, self.shape[self.channel_axis]


def array_info(data: bytes | bytearray, channels: int | None = None) -> ImageInfo:
    """Read the header of a `.npy` image.  Raises BadImage for files that `read_array` refuses."""
    header = _header(data, channels)
    is_float = header.dtype.kind == "f"
    return ImageInfo(*header.size, FLOAT_BITS if is_float else 8 * header.dtype.itemsize)


def read_array(data: bytes | bytearray, channels: int | None = None) -> Pixels:
    """Read a `.npy` image in native byte order; nothing is ever unpickled.

    Floats become float32.  Raises BadImage for values other than uint8, uint16 and finite floats,
    for other shapes, and for files with more or fewer bytes than their header announces.
    """
    header = _header(data, channels)
    values = np.frombuffer(data, header.dtype, offset=header.start)
    values = values.reshape(header.shape, order="F" if header.is_fortran else "C")
    if header.channel_axis is None:
        values = values[..., None]
    elif header.channel_axis == 0:
        values = values.transpose(1, 2, 0)
    if header.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = np.array(values, np.float32, order="C")
        if not np.isfinite(values).all():
            raise BadImage("holds numbers that are not finite, or beyond float32")
        return Pixels(values, False)
    # A copy: the input may be read-only, or reused by the caller.
    return Pixels(np.array(values, header.dtype.newbyteorder("="), order="C"), False)


def check_axes(shape: tuple[int, ...]) -> None:
    """Raise BadImage for a shape whose first and last axis may both be the channel axis.

    A shape [h w c] or [c h w] is ambiguous if the shorter of the two axes may be a side of the
    image.
    """
    if len(shape) != 3:
        return
    shorter, side, longer = min(shape[0], shape[2]), shape[1], max(shape[0], shape[2])
    few = shorter <= FEW_CHANNELS and shorter < side
    if few or longer > MAX_CHANNELS or max(shorter, side) > MAX_ASPECT_RATIO * min(shorter, side):
        return
    raise BadImage(
        f"shape {list(shape)}: its first and its last axis may both be the channels, so it is "
        "not resized: pack it without --resize (data.in_chans then decides)"
    )


def array_layout(data: bytes | bytearray, channels: int) -> tuple[np.dtype, int | None]:
    """Type of the values and axis of the channels; None for [h w].  BadImage as `read_array`."""
    header = _header(data, channels)
    return header.dtype, header.channel_axis


def array_shape(data: bytes | bytearray) -> tuple[int, ...]:
    """Stored shape of a `.npy` image.  Raises BadImage for files that `read_array` refuses."""
    return _header(data, None).shape


def _header(data: bytes | bytearray, channels: int | None) -> NpyHeader:
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers written by Python 2
            version = npy.read_magic(file)
            if version == (1, 0):
                shape, is_fortran, dtype = npy.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, is_fortran, dtype = npy.read_array_header_2_0(file)
            else:  # version 3, which numpy writes only for named fields
                raise BadImage(f"does not decode: .npy of version {version[0]}.{version[1]}")
    except BadImage:
        raise
    except Exception as error:  # a damaged header (a Python literal) raises errors of many types
        raise undecodable(error) from None

    is_float = dtype.kind == "f" and dtype.itemsize in FLOAT_BYTES
    if not is_float and (dtype.kind != "u" or dtype.itemsize > 2):
        kind = f"{dtype.newbyteorder('=')} values"
        if dtype.hasobject or dtype.names:
            kind = "pickled objects" if dtype.hasobject else "named fields"
        raise BadImage(f"{kind}: uint8, uint16 or floats expected")
    if len(shape) not in (2, 3):
        raise BadImage(f"shape {list(shape)}: [h w], [h w c] or [c h w] expected")
    axis = _channel_axis(shape, channels, is_float)
    header = NpyHeader(shape, is_fortran, dtype, file.tell(), axis)
    check_size(*header.size)
    announced, held = math.prod(shape) * dtype.itemsize, len(data) - header.start
    if held != announced:
        raise BadImage(f"does not decode: {held} bytes of values where {announced} are announced")
    return header


def _channel_axis(shape: tuple[int, ...], channels: int | None, is_float: bool) -> int | None:
    if len(shape) == 2:
        return None
    if is_float:
        return 2 if shape[2] == channels != shape[0] else 0
    for axis in (2, 0):
        if shape[axis] == channels:
            return axis
    return 0 if shape[0] < shape[2] else 2
