"""Thumbnails of quarantined images, from their bytes in a shard."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from mae.report.bad_images import thumbnail
from tests.report.folders import write_rows, write_run
from tests.report.test_page import report


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def shown(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (300, 200), (200, 0, 0))


def stored(path, content: bytes, before: int = 700) -> dict:
    """Row of an image that lies within a file."""
    path.write_bytes(b"x" * before + content + b"y" * 50)
    return {"shard": str(path), "key": "a", "offset": before, "bytes": len(content)}


def test_an_image_is_shown_as_far_as_it_decodes(tmp_path, red):
    row = stored(tmp_path / "s.tar", encoded(red))
    picture = shown(thumbnail(row, ""))
    assert picture.size == (176, 117) and np.asarray(picture)[5, 5, 0] > 180
    whole = encoded(Image.effect_noise((300, 200), 90))
    cut = shown(thumbnail(stored(tmp_path / "cut.tar", whole[: len(whole) // 2]), ""))
    values = np.asarray(cut.convert("L"), np.float64)
    assert values[:40].std() > 3 and values[-20:].std() < 1  # gray where nothing is left
    deep = Image.fromarray(np.linspace(900, 1200, 64 * 64).reshape(64, 64).astype(np.uint16))
    levels = np.asarray(shown(thumbnail(stored(tmp_path / "d.tar", encoded(deep, "PNG")), "")))
    assert levels.min() < 10 and levels.max() > 245


@pytest.mark.parametrize("fault", ["text", "absent", "beyond", "no place", "fifo", "huge"])
def test_what_is_no_image_has_none(tmp_path, red, fault):
    path = tmp_path / "s.tar"
    row = stored(path, b"hello" * 50 if fault == "text" else encoded(red))
    if fault == "absent":
        path.unlink()
    if fault == "fifo":
        path.unlink()
        os.mkfifo(path)
    if fault == "beyond":
        row["offset"] = 10**12
    if fault == "no place":  # rows of earlier versions
        del row["offset"]
    if fault == "huge":
        row["bytes"] = 10**12
    assert thumbnail(row, "") == ""


def test_the_page_has_names_reasons_and_pictures(tmp_path, red):
    run = write_run(tmp_path / "run")
    row = stored(tmp_path / "s.tar", encoded(red)) | {"shard": "s.tar", "step": 40}
    row |= {"error": "s.tar: key a: not the bytes that were indexed (checksum)"}
    write_rows(run / "quarantine.jsonl", [row])
    write_rows(run / "starts.jsonl", [{"folder": str(tmp_path), "time": "2026-10-01T08:00:00"}])
    page = report(run)
    pictures = [of for tag, of in page.found if tag == "img" and of["alt"] == "a"]
    assert len(pictures) == 1
    assert "1 replaced by others" in page.text and "met before step 40" in page.text
    assert page.text.count("s.tar") == 1 and " not the bytes that were indexed" in page.text
