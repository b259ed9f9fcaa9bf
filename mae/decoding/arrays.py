"""Images in `.npy` files, of shape [h w], [h w c] or [c h w].

The channel axis is the last axis if its length is the requested number of channels, else the
first if its length is, else (or if no number is requested) the shorter of the two, and the last if
they are equal.  `check_axes` refuses shapes for which that guess may be wrong.
"""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from mae.decoding.pixels import BadImage, ImageInfo, Pixels, check_size, undecodable

MAGIC = b"\x93NUMPY"

# Plausible images for `check_axes`: the longer side is at most 4 times the shorter one, there are
# at most 512 channels, and an axis of at most 4 that is shorter than the sides holds channels.
MAX_ASPECT_RATIO = 4
MAX_CHANNELS = 512
FEW_CHANNELS = 4


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
    return ImageInfo(*header.size, 8 * header.dtype.itemsize)


def read_array(data: bytes | bytearray, channels: int | None = None) -> Pixels:
    """Read a `.npy` image in native byte order; nothing is ever unpickled.

    Raises BadImage for values other than uint8 and uint16, for other shapes, and for files with
    more or fewer bytes than their header announces.
    """
    header = _header(data, channels)
    values = np.frombuffer(data, header.dtype, offset=header.start)
    values = values.reshape(header.shape, order="F" if header.is_fortran else "C")
    if header.channel_axis is None:
        values = values[..., None]
    elif header.channel_axis == 0:
        values = values.transpose(1, 2, 0)
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

    if dtype.kind != "u" or dtype.itemsize > 2:
        kind = f"{dtype.newbyteorder('=')} values"
        if dtype.hasobject or dtype.names:
            kind = "pickled objects" if dtype.hasobject else "named fields"
        raise BadImage(f"{kind}: uint8 or uint16 expected")
    if len(shape) not in (2, 3):
        raise BadImage(f"shape {list(shape)}: [h w], [h w c] or [c h w] expected")
    header = NpyHeader(shape, is_fortran, dtype, file.tell(), _channel_axis(shape, channels))
    check_size(*header.size)
    announced, held = math.prod(shape) * dtype.itemsize, len(data) - header.start
    if held != announced:
        raise BadImage(f"does not decode: {held} bytes of values where {announced} are announced")
    return header


def _channel_axis(shape: tuple[int, ...], channels: int | None) -> int | None:
    if len(shape) == 2:
        return None
    for axis in (2, 0):
        if shape[axis] == channels:
            return axis
    return 0 if shape[0] < shape[2] else 2
