"""Encoding into a file of features: its joining, and the room on the disk."""

import shutil
from collections import namedtuple

import pytest

from mae.base.divided_work import DividedWork
from mae.base.errors import RunFailed, UserError
from mae.base.parts_folder import parts_path
from mae.evaluation import encoding
from mae.evaluation.encoding import features_bytes, write_features
from tests.evaluation.frozen import images_of, tiny_encoder
from tests.evaluation.test_features import spoil

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def images(tmp_path, make_shards):
    """Images of which two are bad, the first one and one in the middle."""
    pattern = make_shards(tmp_path / "shards", 12)
    spoil(tmp_path / "shards", "sample-00000", "sample-00006")
    return images_of(pattern)


def write(images, out, said):
    options = {"tokens": True, "batch_size": 2, "max_bad": 2, "log": said.append}
    return write_features(tiny_encoder(), images, out, {"encoder": "x"}, **options)


@pytest.mark.parametrize("parts", [1, 4])
def test_an_interrupted_join_goes_on_where_it_was(tmp_path, images, monkeypatch, parts):
    """Though the parts that it has joined are deleted by then."""
    alone, out, said = tmp_path / "alone", tmp_path / "out", []
    assert write(images, alone, said)
    monkeypatch.setattr(encoding, "AHEAD", 1)
    drain = DividedWork.drain

    def drain_and_die(self, name, number, state):
        drain(self, name, number, state)
        if number == parts:
            raise RunFailed("killed")

    monkeypatch.setattr(DividedWork, "drain", drain_and_die)
    with pytest.raises(RunFailed):
        write(images, out, said)
    assert len(list(parts_path(out).glob("features-*"))) == 6 - parts
    monkeypatch.setattr(DividedWork, "drain", drain)
    said.clear()
    assert write(images, out, said)
    assert any("resuming, 6 parts are done" in line for line in said)
    assert out.read_bytes() == alone.read_bytes() and not parts_path(out).exists()
    assert sum(line.startswith("skipped: ") for line in said) == 2


def test_the_size_is_said_and_must_be_free(tmp_path, images, monkeypatch):
    out, said = tmp_path / "out", []
    size = features_bytes(tiny_encoder(), images, tokens=True)
    assert size == 12 * (2 * 32 * (16 + 1 + 1) + 16)
    free = 2 * size
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, free))
    assert write(images, out, said)
    assert said[0] == f"features of 12 images: encoding into {out}, 0.001 GB"
    assert 0 < size - out.stat().st_size < size / 4  # two are bad
    free = 2 * size - 1
    with pytest.raises(UserError, match=r"out2: needs 0.001 GB, but 0.001 GB of the disk are free"):
        write(images, tmp_path / "out2", said)
    assert not (tmp_path / "out2").exists()
