"""Panels as data URIs, made small enough to be carried in one file."""

import base64
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

MOST = 6
"""panels shown"""

LARGEST_SIDE = 1600
"""pixels"""

LARGEST_PNG = 300_000
"""bytes; a larger picture becomes a JPEG"""


class Picture(NamedTuple):
    """A panel."""

    step: int | None
    uri: str
    """data:image/…; "" where the file is damaged"""
    name: str
    """of the file"""
    size: tuple[int, int]
    """width and height in pixels"""


def spaced(paths: Sequence[Path], most: int = MOST) -> list[Path]:
    """The first, the last, and evenly spaced ones in between."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def read_picture(path: Path) -> Picture:
    """A panel as it will be shown."""
    digits = re.search(r"\d+", path.stem)
    step = int(digits[0]) if digits else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            uri, size = _encoded(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning):
        return Picture(step, "", path.name, (0, 0))
    return Picture(step, uri, path.name, size)


def _encoded(path: Path) -> tuple[str, tuple[int, int]]:
    with Image.open(path) as file:
        image = file.convert("RGB")
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _written(image, "PNG", optimize=True)
    if len(data) > LARGEST_PNG:
        kind, data = "jpeg", _written(image, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", image.size


def _written(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
