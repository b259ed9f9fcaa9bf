import tarfile
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mae.base.errors import StorageError, UserError
from mae.cli import main
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.views import CentredViews
from mae.evaluation.encoders import objective_encoder
from mae.evaluation.features import Skipped, encode_images, ranges
from tests.evaluation.frozen import tiny_run
from tests.objectives.mae.test_model import small_mae


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return objective_encoder(Config(), small_mae().eval())


def batches_of(images, size=256):
    return ranges(len(images.manifest), size)


def opened(pattern) -> Images:
    return Images(build_manifest([pattern], "test"), 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_equal_images_encoded_alone(make_shards, tmp_path, encoder, workers):
    images = opened(make_shards(tmp_path, 10))
    batches = list(
        encode_images(encoder, images, batches_of(images, 4), tokens=True, workers=workers)
    )
    assert [batch.samples for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    with torch.no_grad():
        alone = [encoder.encode(views.view(i)[None]) for i in range(10)]
    for name in ("cls", "mean", "tokens"):
        rows = np.concatenate([batch.vectors[name] for batch in batches])
        expected = torch.cat([one[name] for one in alone]).numpy()
        assert rows.dtype == np.float16
        np.testing.assert_allclose(rows, expected, rtol=2**-10, atol=1e-4)
    assert "tokens" not in next(encode_images(encoder, images, batches_of(images))).vectors


def test_bad_images_have_no_row_and_are_named(make_shards, tmp_path, encoder):
    pattern = make_shards(tmp_path, 8)
    spoil(tmp_path, "sample-00002", "sample-00004", "sample-00005")
    batches = list(encode_images(encoder, images := opened(pattern), batches_of(images, 2)))
    assert [batch.samples for batch in batches] == [[0, 1], [3], [], [6, 7]]
    assert batches[2].vectors == {}
    assert [bad.sample for batch in batches for bad in batch.bad] == [2, 4, 5]
    assert "key sample-00002" in batches[1].bad[0].reason


def test_missing_shard_raises(make_shards, tmp_path, encoder):
    images = opened(make_shards(tmp_path, 8))
    next(tmp_path.glob("*.tar")).unlink()
    with pytest.raises(StorageError):
        list(encode_images(encoder, images, batches_of(images)))


def test_features_beyond_half_precision_are_refused(make_shards, tmp_path, encoder):
    images = opened(make_shards(tmp_path, 4))
    for factor in (1e6, float("nan")):
        large = encoder._replace(encode=lambda x, f=factor: {"mean": torch.ones(len(x), 2) * f})
        with pytest.raises(UserError, match="`mean` is not finite, or beyond ±65,504"):
            list(encode_images(large, images, batches_of(images)))


def spoil(folder, *keys):
    """Overwrite images before they are indexed."""
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            found = [(m.offset_data, m.size) for m in tar if m.name.partition(".")[0] in keys]
        with path.open("r+b") as file:
            for offset, size in (place for place in found if place[1] > 1):
                file.seek(offset)
                file.write(b"x" * size)


@pytest.mark.parametrize("command", ["pca", "attention", "neighbours", "features", "segment"])
def test_damaged_weights_are_refused_by_every_command(command, tmp_path, make_shards, capsys):
    run, shards = tiny_run(tmp_path / "run", float("nan")), make_shards(tmp_path / "shards", 4)
    out = tmp_path / ("out.safetensors" if command == "features" else "out.png")
    data = {
        "segment": ["--train", shards, "--test", shards],
        "neighbours": [shards, "--among", shards],
    }.get(command, [shards])
    assert main([command, str(run), *data, "--out", str(out), "--device", "cpu"]) == 2
    assert "of a black image is not finite: the weights are damaged" in capsys.readouterr().err
    assert not out.exists()


def test_bad_images_are_told_in_the_words_of_the_command():
    images: Any = SimpleNamespace(manifest=[0, 1])
    reason = "a.tar key 0: 16 bits a channel, but data.bits is 8"
    for setting, words in (("--max-bad", "but --bits is 8 "), ("data.max_bad", "but data.bits")):
        with pytest.raises(UserError, match=words):
            Skipped(images, 0, setting=setting).add_reasons([reason])
