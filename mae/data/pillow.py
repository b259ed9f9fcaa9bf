"""Pillow with its failures sorted: what is no usable image, and why."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

# Pillow opens 16-bit colour in an 8-bit mode; only its raw mode ("RGB;16B") tells.
SIXTEEN_BITS = re.compile(r";16[BLNS]")


class BadImage(ValueError):
    """An image that cannot be used; the message says why, the caller knows which."""


@contextmanager
def open_image(file: BinaryIO | Path) -> Iterator[Image.Image]:
    """Pillow's image, its header read.  Raises BadImage for what is no image, too large, too deep.

    Errors of decoding, inside the `with`, come out as BadImage too.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")) or SIXTEEN_BITS.search(str(image.tile)):
                    raise BadImage(f"more than 8 bits a channel (mode {image.mode})")
                yield image
    except BadImage:
        raise
    except Image.UnidentifiedImageError:  # its text is the address of a buffer
        raise BadImage("does not decode: no image inside") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"refused: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadImage(f"does not decode: {reason}") from None
