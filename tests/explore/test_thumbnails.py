import io

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.explore.table import read_table
from mae.explore.thumbnails import (
    draw_sheets,
    read_thumbnails,
    require_room,
    sheet_order,
    usual_side,
)
from tests.explore.tables import colour_of, columns, jpeg, write


def thumbnails_of(tmp_path, images, side=64):
    content = {"x": [0.0] * len(images), "y": [0.0] * len(images), "image": images}
    return read_thumbnails(
        read_table(write(tmp_path / "a.parquet", content)), side, lambda *_: None
    )


def test_each_cell_of_a_sheet_is_its_image(tmp_path):
    content = columns(64)
    table = read_table(write(tmp_path / "a.parquet", content))
    found = read_thumbnails(table, 64, lambda *_: None)
    assert found.cell == 32 and not found.bad and (found.sizes == 24).all()
    order = np.random.default_rng(0).permutation(64)
    (sheet,) = draw_sheets(found, order)
    picture = np.asarray(Image.open(io.BytesIO(sheet))).astype(int)
    for number, row in enumerate(order):
        top, left = number // found.across * 32, number % found.across * 32
        middle = picture[top + 4 : top + 20, left + 4 : left + 20].mean(axis=(0, 1))
        assert np.abs(middle - colour_of(row)).max() < 4, row


def test_sheets_follow_each_other(tmp_path):
    found = thumbnails_of(tmp_path, [jpeg((9, 9, 9), (64, 64))] * 300)
    assert found.across == 16
    sheets = [Image.open(io.BytesIO(one)).size for one in draw_sheets(found, np.arange(300))]
    assert sheets == [(1024, 1024), (1024, 192)]


def test_images_of_any_size_and_kind(tmp_path):
    gray = io.BytesIO()
    Image.fromarray(np.full((20, 10), 40_000, np.uint16)).save(gray, "PNG")
    images = [
        jpeg((10, 200, 30), (3000, 1000), "JPEG"),
        gray.getvalue(),
        jpeg((1, 2, 3), (1, 1)),
    ]
    found = thumbnails_of(tmp_path, images, 48)
    assert found.sizes.tolist() == [[48, 16], [10, 20], [1, 1]] and found.cell == 48
    large, deep, _ = found.pixels
    assert large is not None and np.abs(large.astype(int) - (10, 200, 30)).max() < 5
    assert deep is not None and (deep == 156).all()


def test_bad_and_missing_images_are_named_and_have_no_cell(tmp_path):
    images = [
        {"bytes": b"no image", "path": None},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": jpeg((0, 0, 0))[:40], "path": None},
        {"bytes": jpeg((0, 0, 0)), "path": None},
    ]
    found = thumbnails_of(tmp_path, images)
    assert [row for row, _ in found.bad] == [0, 2]
    assert found.sizes[:, 0].tolist() == [0, 0, 0, 24]


def test_bombs_are_refused_by_their_header(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = thumbnails_of(tmp_path, [jpeg((0, 0, 0), (64, 64))])
    assert found.pixels == [None] and "refused" in found.bad[0][1]


def test_more_thumbnails_than_memory_has_room_for_are_refused(tmp_path):
    table = read_table(write(tmp_path / "a.parquet", columns(4)))._replace(rows=200_000)
    with pytest.raises(UserError, match=r"^--side 128: .* 9\.8 GB .*: use --side 59 or smaller$"):
        require_room(table, 128)
    require_room(table, 59)
    require_room(table, usual_side(table.rows))
    require_room(table._replace(nested=frozenset()), 128)


def test_near_places_are_on_few_sheets():
    places = np.random.default_rng(0).random((4096, 2)).astype(np.float32)
    rank = np.argsort(sheet_order(places))
    near = (np.abs(places - 0.37) < 0.08).all(axis=1)
    assert near.sum() > 80
    sheets = len(set((rank[near] // 256).tolist()))
    assert sheets <= 4 < len(set((np.flatnonzero(near) // 256).tolist()))
    assert sheet_order(np.zeros((3, 2), np.float32)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("images", "side"), [(10_000, 64), (50_000, 48), (200_000, 32)])
def test_more_images_have_smaller_thumbnails(images, side):
    assert usual_side(images) == side
