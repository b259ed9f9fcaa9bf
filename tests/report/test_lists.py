import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from mae.report.lists import LARGEST_PNG, LARGEST_SIDE, read_picture, spaced
from tests.report.folders import write_panel


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_small_panel_stays_as_it_is(tmp_path):
    picture = read_picture(write_panel(tmp_path / "step-000000400.png"))
    assert (picture.step, picture.size) == (400, (64, 64))
    assert picture.uri.startswith("data:image/png;base64,")
    assert decoded(picture.uri).getpixel((5, 5)) == (90, 90, 90)


def test_a_large_one_is_made_small(tmp_path):
    path = write_panel(tmp_path / "step-000000001.png", side=2400, noise=True)
    assert path.stat().st_size > 10_000_000
    picture = read_picture(path)
    assert picture.size == (LARGEST_SIDE, LARGEST_SIDE) == decoded(picture.uri).size
    assert picture.uri.startswith("data:image/jpeg;base64,")
    assert LARGEST_PNG < len(picture.uri) < 2_500_000  # of pure noise, the worst case


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "absent"])
def test_a_damaged_one_is_reported_as_such(tmp_path, damage):
    path = write_panel(tmp_path / "step-000000007.png", noise=True)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:2000], "empty": b"", "text": b"<svg/>"}.get(damage, whole))
    if damage == "absent":
        path.unlink()
    picture = read_picture(path)
    assert (picture.step, picture.uri) == (7, "")


def test_first_last_and_some_between():
    paths = [Path(f"step-{step}.png") for step in range(100)]
    assert spaced(paths, 6) == [paths[i] for i in (0, 20, 40, 59, 79, 99)]
    assert spaced(paths[:3], 6) == paths[:3]
    assert spaced([], 6) == []
