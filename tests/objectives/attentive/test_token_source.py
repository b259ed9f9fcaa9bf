"""Choice between cached tokens and those of each epoch, and its cost."""

import shutil
from collections import namedtuple

import pytest

from mae.base.parts_folder import parts_path
from mae.evaluation.encoding import features_bytes
from mae.evaluation.feature_cache import cache_path, identity
from mae.objectives.attentive.token_source import encodings, tokens_fit
from tests.evaluation.frozen import images_of, tiny_run
from tests.objectives.probing import probing

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def request_of(tmp_path, make_shards):
    """Request of 20 training and 10 test images, and what it logs."""
    train = images_of(make_shards(tmp_path / "train", 20))
    test = images_of(make_shards(tmp_path / "test", 10))
    said: list[str] = []
    return probing(tiny_run(tmp_path / "run"), train, test, said.append), said


def free_space(monkeypatch, count):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, count))


def test_encodings_of_choosing_training_and_testing(request_of):
    request, _ = request_of
    assert encodings(request, 3) == 3 * 18 + 2 + 3 * 20 + 10


def test_they_are_cached_where_limit_and_disk_allow(request_of, monkeypatch):
    request, said = request_of
    encoder = request.opened.encoder
    sizes = [features_bytes(encoder, one, tokens=True) for one in (request.train, request.test)]
    needed = 2 * sum(sizes)  # while they are joined: a part of them twice
    free_space(monkeypatch, needed / 0.9 + 1)
    assert tokens_fit(request, 20)
    folder = request.folder / "features"
    assert said == [
        f"tokens: 0.001 GB, cached in {folder}: 30 images to encode once (without the cache 772 in "
        "20 epochs)"
    ]
    free_space(monkeypatch, needed / 0.9 - 1)
    assert not tokens_fit(request, 20)
    assert said[1] == (
        "tokens: 0.001 GB, but 0.001 GB of the disk are free: not cached, but encoded in every "
        "epoch: 772 in 20 epochs instead of 30 images to encode once; with more room they are "
        "cached, fewer --epochs take less time"
    )
    request.options.token_gb = sum(sizes) / 1e9 - 1e-9
    assert not tokens_fit(request, 20)
    assert "more than --token-gb" in said[2] and "--token-gb 0.1 caches them" in said[2]


def test_what_is_on_the_disk_already_needs_no_room(request_of, monkeypatch):
    """A command that was killed while it filled the cache goes on with that."""
    request, _ = request_of
    path = cache_path(
        request.folder / "features", identity(request.opened.encoder, request.train), tokens=True
    )
    free_space(monkeypatch, 50_000)
    assert not tokens_fit(request, 20)
    parts_path(path).mkdir(parents=True)
    (parts_path(path) / "features-000000").write_bytes(bytes(40_000))
    assert tokens_fit(request, 20)
