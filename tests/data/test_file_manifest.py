"""Image files as the samples of a manifest."""

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import SampleError, StorageError, UserError
from mae.config.sections import Config
from mae.data.file_manifest import file_manifest, normal_and_others, open_files_or_shards
from mae.data.image_files import image_files
from mae.data.labels import NO_LABEL


@pytest.fixture
def folder(tmp_path, make_image):
    for number, name in enumerate(("cat/1.png", "cat/2.png", "ant/1.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(make_image(number)).save(tmp_path / name)
    return tmp_path


def test_top_level_folders_are_classes(folder, make_image):
    images = open_files_or_shards([str(folder)], "images", Config())
    manifest = images.manifest
    assert [manifest.key(n) for n in range(3)] == ["ant/1.png", "cat/1.png", "cat/2.png"]
    assert manifest.class_names == ("ant", "cat") and manifest.label.tolist() == [0, 1, 1]
    assert manifest.shard_name(1) == str(folder / "cat" / "1.png")
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), make_image(0))


def test_files_outside_of_folders_have_no_classes(folder):
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    manifest = open_files_or_shards([str(folder)], "images", Config()).manifest
    assert manifest.class_names == () and set(manifest.label.tolist()) == {-1}
    one = open_files_or_shards([str(folder / "cat")], "images", Config()).manifest
    assert one.class_names == ()


def test_a_file_that_changes_is_no_longer_read(folder):
    images = open_files_or_shards([str(folder)], "images", Config())
    (folder / "ant" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    with pytest.raises(SampleError, match=r"ant/1\.png"):
        images[0]


def test_the_same_names_in_two_folders_are_distinct_and_one_file_twice_is_not(folder):
    both = image_files([str(folder / "ant"), str(folder / "cat")], distinct_names=False)
    assert len(file_manifest(both)) == 3
    with pytest.raises(UserError, match="image file named twice"):
        file_manifest([*both, both[0]])


def test_the_fingerprint_follows_names_and_contents(folder):
    before = file_manifest(image_files([str(folder)])).fingerprint
    assert file_manifest(image_files([str(folder)])).fingerprint == before
    (folder / "ant" / "1.png").rename(folder / "ant" / "2.png")
    assert file_manifest(image_files([str(folder)])).fingerprint != before


def test_every_file_is_counted(folder):
    seen = []
    file_manifest(image_files([str(folder)]), lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_file_that_cannot_be_read_is_an_error(folder):
    files = image_files([str(folder)])
    (folder / "ant" / "1.png").unlink()
    with pytest.raises(StorageError, match=r"ant/1\.png: cannot be read"):
        file_manifest(files)


def test_folders_of_normal_images_are_a_class():
    names = ["good/1.png", "broken/1.png", "x/ok/2.png", "loose.png"]
    assert normal_and_others(names) == ([0, 1, 0, 1], ("normal", "anomalous"))
    assert normal_and_others(names, ["Broken"]) == ([1, 0, 1, 1], ("Broken", "anomalous"))
    assert normal_and_others(["broken/1.png", "2.png"]).labels == [NO_LABEL] * 2
