"""Difference between our pixels and Pillow's."""

from mae.commands.bench import pipeline
from mae.commands.bench.pipeline import pixel_differences
from mae.decoding.decode import decode

SIZE = (32, 32)


def test_pixels_equal_pillows(loader_manifest):
    differences = pixel_differences(loader_manifest, SIZE)
    assert differences["decode"] == {"mean": 0, "max": 0}
    for name in ("view", "device crop"):
        assert 0 <= differences[name]["mean"] <= 0.1
        assert differences[name]["max"] <= 3


def test_other_pixels_are_reported(loader_manifest, monkeypatch):
    monkeypatch.setattr(pipeline, "decode", lambda *arguments: decode(*arguments) ^ 1)
    assert pixel_differences(loader_manifest, SIZE)["decode"] == {"mean": 1, "max": 1}
