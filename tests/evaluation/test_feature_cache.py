import numpy as np
import pytest
import torch

from mae.base.errors import UserError
from mae.config.sections import Config, DataConfig
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.transform import CENTER_RULE
from mae.evaluation.encoders import objective_encoder
from mae.evaluation.encoding import write_features
from mae.evaluation.feature_cache import (
    copy_features,
    features_metadata,
    identity,
    load_or_encode,
)
from mae.evaluation.features_file import read_features
from mae.objectives.mae.declaration import MaeModel
from tests.evaluation.test_features import spoil
from tests.objectives.mae.test_model import small_mae


def silent(text):
    pass


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return small_mae().eval()


@pytest.fixture
def images(make_shards, tmp_path):
    return Images(build_manifest([make_shards(tmp_path / "shards", 12)], "test"), 3)


def test_cached_features_are_reused(objective, images, tmp_path, monkeypatch):
    said = []
    encoder = objective_encoder(Config(), objective)
    first = load_or_encode(encoder, images, tmp_path / "features", log=said.append)
    assert first.labels.tolist() == [i % 3 for i in range(12)]
    assert first.names()[9] == images.manifest.name(9)
    (line,) = said  # short work shows no progress
    assert "encoding into" in line
    monkeypatch.setattr(objective, "encode", None)  # not called any more
    again = load_or_encode(encoder, images, tmp_path / "features", log=said.append)
    assert again.path == first.path and "made before" in said[-1]
    assert np.array_equal(again.vectors["mean"], first.vectors["mean"])
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_features_of_another_rule_of_views_are_encoded_again(
    objective, images, tmp_path, monkeypatch
):
    """Also those of earlier versions, which named no rule."""
    encoder = objective_encoder(Config(), objective)
    first = load_or_encode(encoder, images, tmp_path / "features", log=silent)
    assert first.metadata["view"] == CENTER_RULE
    monkeypatch.setattr("mae.evaluation.feature_cache.CENTER_RULE", "another")
    again = load_or_encode(encoder, images, tmp_path / "features", log=silent)
    assert again.path != first.path and again.metadata["view"] == "another"


def test_file_with_tokens_serves_pooled_requests(objective, images, tmp_path):
    encoder = objective_encoder(Config(), objective)
    whole = load_or_encode(encoder, images, tmp_path, tokens=True)
    assert whole.vectors["tokens"].ndim == 3
    pooled = whole.vectors["tokens"].astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(pooled, whole.vectors["mean"], atol=2e-3)
    assert load_or_encode(encoder, images, tmp_path).path == whole.path


def test_identity_covers_everything_that_changes_features(objective, images, make_shards):
    config = Config()
    known = [identity(objective_encoder(config, objective), images)]

    def is_new(config, objective, images) -> bool:
        known.append(identity(objective_encoder(config, objective), images))
        return known[-1] not in known[:-1]

    assert not is_new(config, objective, images)
    assert is_new(Config(data=DataConfig(crop_pct=0.9)), objective, images)
    assert is_new(Config(data=DataConfig(mean=(0.1, 0.2, 0.3))), objective, images)
    assert is_new(config, objective, Images(images.manifest, 3, bits=16))
    relabelled = build_manifest(images.manifest.shards, "test")
    np.asarray(relabelled.label)[0] = 2
    assert is_new(config, objective, Images(relabelled, 3))
    other = build_manifest(images.manifest.shards[:1], "test")
    assert is_new(config, objective, Images(other, 3))
    model = MaeModel(encoder_kwargs={"num_heads": 8})
    assert is_new(Config(model=model), objective, images)  # the same tensors
    with torch.no_grad():
        objective.encoder.norm.bias[0] += 1e-3
    assert is_new(config, objective, images)
    with torch.no_grad():  # pretraining's own part has no say
        next(objective.decoder.parameters()).add_(1)
    assert not is_new(config, objective, images)


def test_bad_images_are_skipped_named_and_counted(objective, make_shards, tmp_path):
    pattern = make_shards(tmp_path / "shards", 12)
    spoil(tmp_path / "shards", "sample-00003", "sample-00008")
    images = Images(build_manifest([pattern], "test"), 3)
    encoder, said = objective_encoder(Config(), objective), []
    found = load_or_encode(encoder, images, tmp_path / "out", max_bad=2, log=said.append)
    assert found.samples.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    assert found.labels.tolist() == [i % 3 for i in found.samples]
    assert [name[-5:] for name in found.names()] == [f"{i:05d}" for i in found.samples]
    assert [line.partition(":")[0] for line in said[-2:]] == ["skipped"] * 2
    assert len(found.dropped()) == 2 and "sample-00008" in found.dropped()[1]
    with pytest.raises(UserError, match=r"2 bad images so far, more than data.max_bad = 1"):
        load_or_encode(encoder, images, tmp_path / "few", max_bad=1)
    assert list((tmp_path / "few").glob("*.safetensors")) == []


def test_bad_images_are_named_again_where_the_cache_is_used(objective, make_shards, tmp_path):
    pattern = make_shards(tmp_path / "shards", 6)
    spoil(tmp_path / "shards", "sample-00003", "sample-00004")
    images = Images(build_manifest([pattern], "test"), 3)
    encoder, folder, out = objective_encoder(Config(), objective), tmp_path / "f", tmp_path / "out"
    first: list[str] = []
    load_or_encode(encoder, images, folder, max_bad=2, log=first.append)
    for use in (
        lambda log: load_or_encode(encoder, images, folder, max_bad=2, log=log),
        lambda log: copy_features(
            encoder, images, folder, out, tokens=False, step=None, max_bad=2, log=log
        ),
    ):
        again: list[str] = []
        use(again.append)
        assert "made before" in again[0] and again[1:] == first[-2:]
        assert all(line.startswith("skipped: ") for line in again[1:])
    out.unlink()
    with pytest.raises(UserError, match=r"2 bad images so far, more than data.max_bad = 1"):
        load_or_encode(encoder, images, folder, max_bad=1, log=silent)
    with pytest.raises(UserError, match=r"more than data.max_bad = 0"):
        copy_features(encoder, images, folder, out, tokens=False, step=None, log=silent)
    assert not out.exists()


def test_no_readable_image_is_an_error(objective, make_shards, tmp_path):
    pattern = make_shards(tmp_path / "shards", 2)
    spoil(tmp_path / "shards", "sample-00000", "sample-00001")
    images = Images(build_manifest([pattern], "test"), 3)
    with pytest.raises(UserError, match="none of 2 images is readable"):
        load_or_encode(objective_encoder(Config(), objective), images, tmp_path / "out", max_bad=9)


def test_unlabelled_images_have_label_minus_one(objective, make_shards, tmp_path):
    bare = make_shards(tmp_path / "shards", 3, labels=False)
    images = Images(build_manifest([bare], "test"), 3)
    out = tmp_path / "f.safetensors"
    encoder = objective_encoder(Config(), objective)
    write_features(encoder, images, out, features_metadata(encoder, images, 7))
    assert read_features(out).labels.tolist() == [-1, -1, -1]
    assert read_features(out).metadata["step"] == "7"


def test_cache_finds_files_of_any_name(objective, images, tmp_path):
    encoder, folder = objective_encoder(Config(), objective), tmp_path / "features"
    metadata = features_metadata(encoder, images, None)
    write_features(encoder, images, folder / "mine.safetensors", metadata, tokens=True, log=silent)
    (folder / "damaged.safetensors").write_bytes(b"nothing")
    for tokens in (True, False):
        found = load_or_encode(encoder, images, folder, tokens=tokens, log=silent)
        assert found.path.name == "mine.safetensors"
    other = Images(images.manifest, 3, bits=16)
    assert load_or_encode(encoder, other, folder, log=silent).path.name != "mine.safetensors"


def test_copy_equals_written_file(objective, images, tmp_path):
    encoder, folder = objective_encoder(Config(), objective), tmp_path / "features"
    out, asked = tmp_path / "out.safetensors", {"step": 5, "log": silent}
    assert not copy_features(encoder, images, folder, out, tokens=False, **asked)
    load_or_encode(encoder, images, folder, tokens=True, **asked)
    assert not copy_features(encoder, images, folder, out, tokens=False, **asked)
    assert not copy_features(encoder, images, folder, out, tokens=True, step=6, log=silent)
    assert not out.exists()
    assert copy_features(encoder, images, folder, out, tokens=True, **asked)
    fresh = tmp_path / "fresh.safetensors"
    write_features(
        encoder, images, fresh, features_metadata(encoder, images, 5), tokens=True, log=silent
    )
    assert out.read_bytes() == fresh.read_bytes()
