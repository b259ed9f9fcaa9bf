"""Duplicates: of bytes, pixels, hashes, mirror images and features."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mae.config.sections import Config
from mae.data.file_manifest import open_files_or_shards
from mae.similarity import compared_sets, duplicates
from mae.similarity.compared_sets import DuplicatesRequest, compare_sets
from mae.similarity.duplicates import KINDS, feature_duplicates, merged
from mae.similarity.features import Vectors, open_features


def silent(text):
    """For commands that print nothing."""


def picture(number, size=64):
    """Smooth random picture, unlike the others."""
    values = np.random.default_rng(number).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    large = Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)
    return large.filter(ImageFilter.GaussianBlur(1))


def file_of(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`a`: 12 pictures; `b`: others, and copies of some of these, named by the kind."""
    folder = tmp_path_factory.mktemp("sets")
    a, b = folder / "a", folder / "b"
    a.mkdir()
    b.mkdir()
    for number in range(12):
        (a / f"{number:02d}.png").write_bytes(file_of(picture(number)))
        (b / f"other-{number:02d}.png").write_bytes(file_of(picture(100 + number)))
    mirrored = picture(4).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, data in {
        "01-bytes.png": file_of(picture(1)),
        "02-pixels.png": file_of(picture(2), compress_level=1),
        "03-hash.jpg": file_of(picture(3), "JPEG", quality=40),
        "04-mirrored.png": file_of(mirrored),
        "05-hash.png": file_of(picture(5).resize((40, 40))),
        "blank.png": file_of(Image.new("RGB", (64, 64))),
    }.items():
        (b / name).write_bytes(data)
    (a / "blank.png").write_bytes(file_of(Image.new("RGB", (30, 30))))
    return a, b


def opened(folder):
    return open_files_or_shards([str(folder)], "images", Config())


def compared(request):
    result = compare_sets(request)
    assert result is not None
    return result


def pairs_of(comparison):
    def name(data, row):
        return data.images.manifest.key(int(data.samples[row]))

    found = comparison.found
    return {
        name(comparison.own, image): (name(comparison.other, of), KINDS[kind])
        for image, of, kind in zip(found.image, found.of, found.kind, strict=True)
    }


def test_copies_in_another_set_are_found_by_kind_and_nothing_else(folders, tmp_path):
    a, b = map(opened, folders)
    request = DuplicatesRequest(b, tmp_path / "d.json", against=a, log=silent)
    result = compared(request)
    within, across = result.comparisons
    assert pairs_of(across) == {
        name: (f"{name[:2]}.png", name[3:].partition(".")[0])
        for name in ("01-bytes.png", "02-pixels.png", "03-hash.jpg", "04-mirrored.png")
    } | {"05-hash.png": ("05.png", "hash")}
    assert not len(within.found.image) and result.unusable == []
    exact = compared(request._replace(correlation=None)).comparisons[1]
    assert set(pairs_of(exact)) == {"01-bytes.png", "02-pixels.png"}
    plain = compared(request._replace(mirrored=False)).comparisons[1]
    assert "04-mirrored.png" not in pairs_of(plain) and len(pairs_of(plain)) == 4


def test_within_a_set_each_later_copy_points_to_the_first(folders, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(file_of(picture(7)))
    (tmp_path / "3.jpg").write_bytes(file_of(picture(7), "JPEG", quality=50))
    (comparison,) = compared(
        DuplicatesRequest(opened(tmp_path), tmp_path / "d.json", log=silent)
    ).comparisons
    assert pairs_of(comparison) == {
        "1.png": ("0.png", "bytes"),
        "2.png": ("0.png", "bytes"),
        "3.jpg": ("0.png", "hash"),
    }


def vectors(values):
    count = len(values)
    return Vectors(np.asarray(values, np.float16), np.arange(count), np.full(count, -1))


def test_features_find_pairs_above_the_threshold_once():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 16)) + 5  # without the mean all cosines were large
    values[20] = values[3] + 0.01
    found = feature_duplicates(vectors(values), None, 0.95)
    assert (found.image.tolist(), found.of.tolist()) == ([20], [3])
    assert found.similarity[0] > 0.99 and KINDS[found.kind[0]] == "features"
    other = feature_duplicates(vectors(values[[3, 5]]), vectors(values[::-1]), 0.95)
    assert other.of.tolist() == [26, 24]
    assert merged(found, found).image.tolist() == [20]


def test_each_image_alike_an_earlier_one_is_listed_once(monkeypatch):
    """Also one whose nearest image is a later one: 1 is nearest to 2, as 0 is."""
    angles = np.arccos(0.985) * np.array([0, 1, 0.5])
    three = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    values = np.concatenate([three, -three])  # with a mean of zero
    found = feature_duplicates(vectors(values), None, 0.98)
    assert found.image.tolist() == [1, 2, 4, 5]
    assert found.of[[0, 2]].tolist() == [0, 3]
    np.testing.assert_allclose(found.similarity, [0.985, 0.996, 0.985, 0.996], atol=2e-3)
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    again = feature_duplicates(vectors(values), None, 0.98)
    np.testing.assert_array_equal(again.similarity, found.similarity)
    assert not len(feature_duplicates(vectors(values[:1]), None, 0.98).image)


def test_features_are_compared_on_the_device_of_their_source(folders, tmp_path, monkeypatch):
    asked = []

    def spy(own, other, threshold, device="not given"):
        asked.append(device)
        return feature_duplicates(own, other, threshold)

    monkeypatch.setattr(compared_sets, "feature_duplicates", spy)
    out = tmp_path / "d.json"
    source = open_features(
        "pixels", [str(folders[0])], command="duplicates", out=out, device="cpu:0"
    )
    compared(DuplicatesRequest(opened(folders[0]), out, source=source, log=silent))
    assert asked == ["cpu:0"]
