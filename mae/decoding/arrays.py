"""`.npy` images.

Shapes are [h w], [h w c] or [c h w].  Which axis is the channels': the last where it has the
wanted number, else the first where that has, else (or where none is wanted) the shorter of the
two, the last if they are equal.  Where that may well be wrong, `check_axes` says so.
"""

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from mae.decoding.pixels import BadImage, ImageInfo, Pixels, check_size, undecodable

MAGIC = b"\x93NUMPY"

# An image is at most so many times as long as it is wide, where nothing else tells,
LONGEST = 4
# and has at most so many channels; so few are channels whatever the sides are.
MOST_CHANNELS = 512
FEW_CHANNELS = 4


class Header(NamedTuple):
    """What precedes the values."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int
    """of the values, in bytes"""
    axis: int | None
    """of the channels, 0 or 2; None where there are none"""

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        if self.axis is None:
            height, width = self.shape
            return height, width, 1
        height, width = (n for axis, n in enumerate(self.shape) if axis != self.axis)
        return height, width, self.shape[self.axis]


def array_info(data: bytes | bytearray, channels: int | None = None) -> ImageInfo:
    """What the header tells.  Raises BadImage for what `read_array` does not take."""
    header = _header(data, channels)
    return ImageInfo(*header.size, 8 * header.dtype.itemsize)


def read_array(data: bytes | bytearray, channels: int | None = None) -> Pixels:
    """The values, in this machine's byte order.  Nothing is ever unpickled.

    Raises BadImage for values other than uint8 and uint16, other shapes, and files that hold
    more or fewer bytes than their header says.
    """
    header = _header(data, channels)
    values = np.frombuffer(data, header.dtype, offset=header.start)
    values = values.reshape(header.shape, order="F" if header.fortran else "C")
    if header.axis is None:
        values = values[..., None]
    elif header.axis == 0:
        values = values.transpose(1, 2, 0)
    # A copy: what is given was read-only, or the caller's to overwrite.
    return Pixels(np.array(values, header.dtype.newbyteorder("="), order="C"), False)


def check_axes(shape: tuple[int, ...]) -> None:
    """Raise BadImage for a shape whose first and last axis may both be the channels'.

    So it is where the shorter of the two, taken for the channels, may be a side of the image.
    """
    if len(shape) != 3:
        return
    shorter, side, longer = min(shape[0], shape[2]), shape[1], max(shape[0], shape[2])
    few = shorter <= FEW_CHANNELS and shorter < side
    if few or longer > MOST_CHANNELS or max(shorter, side) > LONGEST * min(shorter, side):
        return
    raise BadImage(
        f"shape {list(shape)}: its first and its last axis may both be the channels, so it is "
        "not resized: pack it without --resize (data.in_chans then tells)"
    )


def array_shape(data: bytes | bytearray) -> tuple[int, ...]:
    """As the header has it.  Raises BadImage for what `read_array` does not take."""
    return _header(data, None).shape


def _header(data: bytes | bytearray, channels: int | None) -> Header:
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers by Python 2
            version = npy.read_magic(file)
            if version == (1, 0):
                shape, fortran, dtype = npy.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, fortran, dtype = npy.read_array_header_2_0(file)
            else:  # numpy writes another only for named fields
                raise BadImage(f"does not decode: .npy of version {version[0]}.{version[1]}")
    except BadImage:
        raise
    except Exception as error:  # the header is a Python literal: a damaged one fails in any way
        raise undecodable(error) from None

    if dtype.kind != "u" or dtype.itemsize > 2:
        kind = f"{dtype.newbyteorder('=')} values"
        if dtype.hasobject or dtype.names:
            kind = "pickled objects" if dtype.hasobject else "named fields"
        raise BadImage(f"{kind}: uint8 or uint16 expected")
    if len(shape) not in (2, 3):
        raise BadImage(f"shape {list(shape)}: [h w], [h w c] or [c h w] expected")
    header = Header(shape, fortran, dtype, file.tell(), _channel_axis(shape, channels))
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
