"""Number, size and channels of images, from some headers."""

import io

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.data.facts import data_facts
from mae.data.indexing import build_manifest


def facts_of(make_tar, folder, images):
    members = []
    for number, pixels in enumerate(images):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        members.append((f"{number:04d}.png", out.getvalue()))
    return data_facts(build_manifest([str(make_tar(folder / "a.tar", members))]))


def blank(height, width, channels=1, dtype=np.uint8):
    return np.zeros((height, width, channels)[: 2 + (channels > 1)], dtype)


def test_sizes_are_medians_and_shapes_are_told_apart(make_tar, tmp_path):
    facts = facts_of(make_tar, tmp_path, [blank(20, 60)] * 9 + [blank(20, 61), blank(8, 24)])
    assert facts == (11, 1, 8, 20, 60, 8, (3.0, 3.0))
    assert facts.has_one_shape and facts.short_side == 20
    assert str(facts) == "11 images of 20 x 60 px, grey, 8 bits"
    mixed = facts_of(make_tar, tmp_path, [blank(20, 60), blank(60, 20)] * 4)
    assert not mixed.has_one_shape


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ([blank(8, 8, 3)] * 2 + [blank(8, 8)] * 8, (3, 8)),
        ([blank(8, 8, 3)] + [blank(8, 8)] * 19, (1, 8)),
        ([blank(8, 8, 1, np.uint16)] * 3, (1, 16)),
        ([blank(8, 8, 4)] * 3, (3, 8)),
    ],
)
def test_channels_are_those_that_lose_nothing(make_tar, tmp_path, images, kind):
    facts = facts_of(make_tar, tmp_path, images)
    assert (facts.channels, facts.bits) == kind


def test_images_that_are_none_are_refused(make_tar, tmp_path):
    shard = make_tar(tmp_path / "a.tar", [("a.png", b"no image")])
    with pytest.raises(UserError, match="no usable image"):
        data_facts(build_manifest([str(shard)]))
