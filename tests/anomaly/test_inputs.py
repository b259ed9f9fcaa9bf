"""Images of shards, folders and files, with their references."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mae.anomaly.companions import PAIRS
from mae.anomaly.inputs import (
    MATCHED,
    PairedImages,
    Reading,
    identity,
    open_inputs,
    recorded_references,
    usual_kind,
)
from mae.base.errors import SampleError, UserError
from tests.anomaly import surfaces
from tests.anomaly.surfaces import tar_of

GREY = Reading(1, 8)


def png(value, size=(8, 6)):
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def values(images):
    return [[int(part.float().mean()) for part in images[n].chunk(2)] for n in range(3)]


def test_references_beside_the_images_of_a_shard(tmp_path):
    members = {}
    for n in range(3):
        members[f"{n}.ref.png"] = png(100 + n)
        members[f"{n}.png"] = png(n)
        members[f"{n}.mask.png"] = png(0)
    images = open_inputs([tar_of(tmp_path / "a.tar", members)], "--normal", GREY, [PAIRS])
    assert isinstance(images, PairedImages) and images[0].shape == (2, 6, 8)
    assert values(images) == [[n, 100 + n] for n in range(3)]
    lacking = tar_of(
        tmp_path / "b.tar", {name: data for name, data in members.items() if "1.r" not in name}
    )
    with pytest.raises(UserError, match=r"--normal: .*key 1: no image KEY\.ref\.png beside it"):
        open_inputs([lacking], "--normal", GREY, [PAIRS])


def test_references_beside_files_are_no_images_of_their_own(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
        (tmp_path / f"{n}.ref.jpg").write_bytes(png(100 + n))
        (tmp_path / f"{n}.mask.png").write_bytes(png(9))
    images = open_inputs([str(tmp_path)], "--normal", GREY, [PAIRS])
    assert values(images) == [[n, 100 + n] for n in range(3)]
    assert len(open_inputs([str(tmp_path)], "--normal", GREY).manifest) == 3
    (tmp_path / "1.ref.jpg").unlink()
    with pytest.raises(UserError, match=r"1\.png: no image KEY\.ref\.png"):
        open_inputs([str(tmp_path)], "--normal", GREY, [PAIRS])


def test_references_of_the_same_key(tmp_path):
    (tmp_path / "own").mkdir()
    for n in range(3):
        (tmp_path / "own" / f"{n}.png").write_bytes(png(n))
    shard = tar_of(tmp_path / "references.tar", {f"{n}.png": png(100 + n) for n in (2, 0, 1)})
    images = open_inputs([str(tmp_path / "own")], "--test", GREY, [shard])
    assert values(images) == [[n, 100 + n] for n in range(3)]
    fewer = tar_of(tmp_path / "fewer.tar", {"0.png": png(0), "2.png": png(0)})
    with pytest.raises(UserError, match=r"--test: 1 of 3 images have no reference.*1\.png"):
        open_inputs([str(tmp_path / "own")], "--test", GREY, [fewer])
    assert identity(images) != identity(open_inputs([str(tmp_path / "own")], "--test", GREY))


def test_one_reference_for_all_is_resized_to_each(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n, (8, 6 + n)))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "template.png").write_bytes(png(77, (16, 16)))
    names = [str(tmp_path / f"{n}.png") for n in range(3)]
    images = open_inputs(names, "images", GREY, [str(tmp_path / "r" / "template.png")])
    assert [images[n].shape for n in range(3)] == [(2, 6 + n, 8) for n in range(3)]
    assert values(images) == [[n, 77] for n in range(3)]
    (tmp_path / "r" / "template.png").write_bytes(b"garbage")
    broken = open_inputs(names, "images", GREY, [str(tmp_path / "r" / "template.png")])
    with pytest.raises(SampleError, match=r"0\.png: its reference is bad: .*template\.png"):
        broken[0]


def test_records(tmp_path):
    (tmp_path / "t.tif").write_bytes(png(1))
    assert recorded_references([]) is None
    assert recorded_references([PAIRS]) == PAIRS
    assert recorded_references([str(tmp_path / "t.tif")]) == "reference.tif"
    assert recorded_references([str(tmp_path)]) == MATCHED


def test_sixteen_bits(tmp_path):
    deep = Image.fromarray(np.full((6, 8), 4000, np.uint16))
    deep.save(tmp_path / "0.png")
    (found,) = [open_inputs([str(tmp_path)], "images", Reading(1, 16), [str(tmp_path / "0.png")])]
    assert found[0].dtype == torch.uint16 and (found[0].int() == 4000).all()


def test_images_are_read_with_their_own_channels_and_bits(tmp_path):
    for name, dtype in (("grey", np.uint8), ("deep", np.uint16)):
        (tmp_path / name).mkdir()
        pixels = np.arange(64, dtype=dtype).reshape(8, 8)
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(surfaces.png(pixels))
    (tmp_path / "grey" / "0.ref.png").write_bytes(b"no image of its own")
    shard = tar_of(tmp_path / "a.tar", {"0.png": surfaces.png(np.zeros((8, 8, 3), np.uint8))})
    for source, kind in (("grey", (1, 8)), ("deep", (1, 16)), ("a.tar", (3, 8))):
        assert usual_kind([str(tmp_path / source)], "--normal", GREY) == kind
    assert usual_kind([shard], "--normal", GREY) == (3, 8)
