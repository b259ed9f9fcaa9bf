"""Masks of defects in shards and beside files."""

import numpy as np
import pytest

from mae.anomaly.defect_masks import find_masks
from mae.anomaly.inputs import Reading, open_inputs
from mae.base.errors import SampleError
from tests.anomaly.surfaces import SIZE, defect, picture, png, shard


def checked(masks):
    """Images 0 and 1 are normal, 2 and 3 have defects, of which the last has no mask."""
    assert masks is not None and masks.missing == 1
    assert not masks.of(0, (SIZE, SIZE)).any()
    np.testing.assert_array_equal(masks.of(2, (SIZE, SIZE)), defect(2))
    assert masks.of(3, (SIZE, SIZE)) is None
    with pytest.raises(SampleError, match=r"the mask has 48 x 48 pixels, the image 50 x 48"):
        masks.of(2, (SIZE, 50))
    bad: list[str] = []
    found = masks.of_batch([1, 2, 3], [(SIZE, SIZE), (9, 9), (SIZE, SIZE)], bad)
    assert list(found) == [1] and len(bad) == 1
    assert len(masks.sha256) == 64


def test_masks_in_shards(tmp_path):
    shard(tmp_path / "a.tar", 0, [0, 0, 1], masks=True)
    shard(tmp_path / "b.tar", 3, [1])
    images = open_inputs([f"{tmp_path}/*.tar"], "--test", Reading(1, 8))
    checked(find_masks(images, "--test"))


def test_masks_beside_files(tmp_path):
    for number in range(4):
        folder = tmp_path / ("broken" if number > 1 else "good")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(picture(number, number > 1)))
    (tmp_path / "broken/2.mask.png").write_bytes(png(defect(2).astype(np.uint8)))
    images = open_inputs([str(tmp_path)], "--test", Reading(1, 8))
    order = [int(images.manifest.name(i).split("/")[-1].split(".")[0]) for i in range(4)]
    masks = find_masks(images, "--test")
    assert masks is not None and masks.missing == 1
    place = order.index(2)
    np.testing.assert_array_equal(masks.of(place, (SIZE, SIZE)), defect(2))
    (tmp_path / "broken/2.mask.png").write_bytes(b"no picture")
    with pytest.raises(SampleError, match=r"2\.png.*the mask"):
        masks.of(place, (SIZE, SIZE))


def test_no_masks_at_all(tmp_path):
    shard(tmp_path / "a.tar", 0, [0, 1])
    images = open_inputs([f"{tmp_path}/a.tar"], "--test", Reading(1, 8))
    assert find_masks(images, "--test") is None
