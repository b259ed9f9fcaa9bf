"""Image files of a command line."""

import pytest

from mae.base.errors import UserError
from mae.data.image_files import are_image_files, image_files


def test_folders_are_searched_and_hidden_files_left_alone(tmp_path):
    for name in ("b/2.png", "b/1.TIF", "a.jpg", ".hidden.png", ".cache/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = image_files([str(tmp_path)])
    assert [one.name for one in found] == ["a.jpg", "b/1.TIF", "b/2.png"]
    assert image_files([str(tmp_path / "b" / "2.png")])[0].name == "2.png"
    assert are_image_files([str(tmp_path), str(tmp_path / "a.jpg")])
    assert not are_image_files([str(tmp_path), "shards-{0..3}.tar"])


def test_links_to_folders_are_followed_but_not_in_a_ring(tmp_path):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "1.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "ring").symlink_to(tmp_path / "data")
    found = image_files([str(tmp_path / "set")])
    assert [one.name for one in found] == ["link/deep/1.png"]


def test_wrong_sources_are_named(tmp_path):
    for name in ("a", "b", "empty"):
        (tmp_path / name).mkdir()
    for name in "ab":
        (tmp_path / name / "1.png").touch()
    with pytest.raises(UserError, match=r"both would be named 1\.png"):
        image_files([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(UserError, match="no images in this folder"):
        image_files([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="no such file"):
        image_files([str(tmp_path / "c.png")])
