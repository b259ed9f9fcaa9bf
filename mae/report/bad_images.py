"""Bad images of a run: names and reasons, with what can be seen of them."""

import base64
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from mae.evaluation.run_record import Row, number
from mae.pictures.html import Markup, join, tag, text, void
from mae.report.lists import none, shown_value
from mae.report.run_record import Record

MOST = 20
"""maximum number of images shown"""
SIDE = 176
"""maximum width and height of a thumbnail, twice what is shown"""
LARGEST_FILE = 50_000_000
"""size in bytes above which a file is not read for a thumbnail"""


def bad_images(record: Record) -> Markup:
    """Number of bad images, and cards of the first: thumbnail, key, shard, step, reason.

    An image is shown as far as it decodes: the reason may be its checksum alone.
    """
    rows = record.quarantine
    if not rows:
        return none("None.")
    lead = f"{len(rows):,} replaced by others" + (
        f"; the first {MOST}, see quarantine.jsonl" if len(rows) > MOST else ""
    )
    folder = next((str(one["folder"]) for one in record.starts[::-1] if "folder" in one), "")
    cards = [_card(row, folder) for row in rows[:MOST]]
    return join([tag("p", text(lead), class_="lead"), tag("div", *cards, class_="quarantine")])


def _card(row: Row, folder: str) -> Markup:
    key, shard, reason = (shown_value(row.get(name, "")) for name in ("key", "shard", "error"))
    uri = thumbnail(row, folder)
    picture = (
        void("img", src=uri, alt=key)
        if uri
        else tag("div", text("not readable as an image"), class_="blank")
    )
    step, since = number(row, "step"), number(row, "readable_since")
    words = [shard, "" if step is None else f"met before step {step:,.0f}"]
    words += [f"readable again, used from step {since:,.0f}"] if since is not None else []
    # The reason begins with shard and key, which stand above it.
    reason = reason.removeprefix(f"{shard}: key {key}: ")
    caption = [tag("b", text(key)), text(reason), *(tag("span", text(one)) for one in words if one)]
    return tag("figure", picture, tag("figcaption", *caption))


def thumbnail(row: Row, folder: str) -> str:
    """Data URI of what decodes of a quarantined image, in a local shard; "" for nothing.

    `folder`: that in which the run was started, for a relative path.  Earlier versions did not
    record the place of the bytes.
    """
    offset, size = number(row, "offset"), number(row, "bytes")
    if offset is None or size is None or offset < 0 or not 0 < size <= LARGEST_FILE:
        return ""
    name = str(row.get("shard", ""))
    for path in (Path(name), Path(folder) / name):
        try:
            if not path.is_file():  # nor is a FIFO waited for
                continue
            with path.open("rb") as file:
                file.seek(int(offset))
                return _uri(file.read(int(size)))
        except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError):
            continue
    return ""


def _uri(content: bytes) -> str:
    pillow: Any = ImageFile
    before, pillow.LOAD_TRUNCATED_IMAGES = pillow.LOAD_TRUNCATED_IMAGES, True
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            if math.prod(image.size) > (Image.MAX_IMAGE_PIXELS or math.inf):
                return ""
            image.draft("RGB", (SIDE, SIDE))
            shown = _eight_bits(image)
    finally:
        pillow.LOAD_TRUNCATED_IMAGES = before
    shown.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _eight_bits(image: Any) -> Image.Image:
    """RGB of any mode; deep gray images from their darkest to their lightest pixel."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    scaled = (values - low) / max(high - low, 1e-9) * 255
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
