"""Trained models in Python give what the commands give."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import mae
from mae.cli import main
from mae.config.loading import parse_config
from mae.evaluation.features_file import read_features
from tests.objectives.autoencoders.recipes import train as train_autoencoder
from tests.untrained import untrained_run


@pytest.fixture(scope="module")
def encoder(reference_run):
    return mae.load(reference_run.folder)


@pytest.fixture
def pictures(make_image):
    return [make_image(number) for number in range(5)]


@pytest.mark.parametrize("feature", ["mean", "cls", "tokens"])
def test_vectors_are_those_of_mae_features(encoder, reference_run, shards, feature, tmp_path):
    out = tmp_path / "features.safetensors"
    words = ["features", str(reference_run.folder), shards, "--out", str(out), "--tokens"]
    assert main([*words, "--workers", "0"]) == 0
    found = encoder.embed(shards, feature=feature)
    assert found.dtype == np.float32
    expected = read_features(out).vectors[feature] if feature != "tokens" else load_tokens(out)
    np.testing.assert_array_equal(found.astype(np.float16), expected)


def load_tokens(file):
    return load_file(file)["tokens"].numpy()


def test_what_is_given_does_not_matter(encoder, pictures, tmp_path):
    expected = encoder.embed(pictures)
    assert expected.shape == (5, encoder.width) == (5, 32)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    others = {
        "folder": tmp_path,
        "generator": (picture for picture in pictures),
        "array": np.stack(pictures),
        "transformed": [encoder.transform(picture) for picture in pictures],
        "batch": torch.stack([encoder.transform(picture) for picture in pictures]),
    }
    for name, images in others.items():
        found = encoder.embed(images, batch_size=2)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_module_of_the_encoder(encoder, pictures):
    assert isinstance(encoder.model, VisionTransformer)
    assert (encoder.img_size, encoder.in_chans, encoder.bits) == ((16, 16), 3, 8)
    assert encoder.features == ["mean", "cls"] and encoder.patch_size == (4, 4)
    batch = torch.stack([encoder.transform(Image.fromarray(one)) for one in pictures])
    assert batch.dtype == torch.float32 and batch.shape == (5, 3, 16, 16)
    with torch.no_grad():
        tokens = encoder.model.forward_features(batch)
    np.testing.assert_allclose(tokens[:, 0], encoder.embed(pictures, feature="cls"), atol=1e-5)
    assert str(encoder.source) in repr(encoder) and "16 x 16, 3 channels of 8 bits" in repr(encoder)


def test_no_images(encoder):
    assert encoder.embed([]).shape == (0, 32)
    assert encoder.embed(iter(()), feature="tokens").shape == (0, 16, 32)
    assert encoder.reconstruct([]).images.shape == (0, 16, 16, 3)
    with pytest.raises(mae.UserError, match=r"images: none"):
        encoder.panel([])


def test_bad_images(encoder, pictures):
    pictures[2] = pictures[2][..., :2]
    with pytest.raises(mae.UserError, match=r"images\[2\]: has 2 channels, but data.in_chans is 3"):
        encoder.embed(pictures)
    for size in (1, 2, 256):
        found = encoder.embed(pictures, bad="nan", batch_size=size)
        assert found.shape == (5, 32) and np.isnan(found[2]).all()
        assert np.isfinite(np.delete(found, 2, axis=0)).all()
    assert np.isnan(encoder.embed([pictures[2]], bad="nan")).all()
    with pytest.raises(mae.UserError, match=r"bad: 'skip'"):
        encoder.embed(pictures, bad="skip")


def test_wrong_use(encoder, pictures, tmp_path, reference_run):
    with pytest.raises(mae.UserError, match=r"feature: no 'max'; .* has mean, cls, tokens"):
        encoder.embed(pictures, feature="max")
    with pytest.raises(mae.UserError, match=r"objective mae has no class scores; .*classifier"):
        encoder.predict(pictures)
    with pytest.raises(mae.UserError, match=r"objective mae has no latents; .*vae"):
        encoder.latents(pictures)
    with pytest.raises(mae.UserError, match=r"objective mae has no samples; .*vae"):
        encoder.sample(3)
    with pytest.raises(mae.UserError, match=r"^device cuda:7: "):
        mae.load(reference_run.folder, device="cuda:7")
    with pytest.raises(mae.UserError, match=r"nosuch: no such run, export or file"):
        mae.load(tmp_path / "nosuch")
    with pytest.raises(mae.UserError, match=r"has settings of its own"):
        mae.load(reference_run.folder, num_heads=3)
    with pytest.raises(mae.UserError, match=f"^{tmp_path}: "):
        mae.load(tmp_path)


def test_a_damaged_checkpoint(reference_run, tmp_path):

    copy = tmp_path / "run"
    shutil.copytree(reference_run.folder, copy)
    newest = max((copy / "checkpoints").iterdir())
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 255
    weights.write_bytes(content)
    assert mae.load(copy).embed([]).shape == (0, 32)  # of the checkpoint before
    with pytest.raises(mae.UserError, match=r"model.safetensors"):
        mae.load(newest)


def test_reconstructions(encoder, pictures):
    found = encoder.reconstruct(pictures, batch_size=2)
    assert found.images.shape == (5, 16, 16, 3) and found.inputs is None
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert found.mask is not None and found.mask.mean() == 0.75
    whole = encoder.reconstruct(np.stack(pictures))
    np.testing.assert_array_equal(whole.mask, found.mask)
    views = np.stack([encoder.transform(one).numpy() for one in pictures]).transpose(0, 2, 3, 1)
    unit = views * 0.25 + 0.5
    np.testing.assert_allclose(
        found.images[found.mask == 0], unit[found.mask == 0], rtol=0, atol=1e-5
    )
    other = encoder.reconstruct(pictures, seed=1).mask
    assert not np.array_equal(other, found.mask)
    panel = encoder.panel(pictures[:2], title="two")
    assert panel.size == encoder.panel(pictures[2:4], title="others").size
    with pytest.raises(mae.UserError, match=r"more than 64"):
        encoder.panel(pictures * 13)


@pytest.mark.parametrize("format", ["timm", "plain"])
def test_an_export_gives_the_same_vectors(
    encoder, reference_run, pictures, format, tmp_path, in_process
):
    folder = mae.Run(reference_run.folder).export(tmp_path / "export", format)
    export = mae.load(folder)
    assert export.img_size == (16, 16) and export.features == ["mean", "cls"]
    for given in (pictures, [export.transform(one) for one in pictures]):
        for name in export.features:
            np.testing.assert_allclose(
                export.embed(given, feature=name), encoder.embed(pictures, feature=name), atol=1e-5
            )
    if format == "timm":
        assert isinstance(export.model, VisionTransformer) and export.objective is None
        with pytest.raises(mae.UserError, match=r"this export has no reconstructions"):
            export.reconstruct(pictures)
        with pytest.raises(mae.UserError, match=r"this export has no reconstructions"):
            export.panel(pictures)
    else:
        assert export.reconstruct(pictures).images.shape == (5, 16, 16, 3)


def test_many_channels_of_16_bits(tmp_path):
    values = {
        "data": {
            "img_size": 16,
            **{"in_chans": 5, "bits": 16, "mean": [0.5] * 5, "std": [0.25] * 5},
        },
        "model": {
            "encoder": "vit_tiny_patch16_224",
            "patch_size": 4,
            "encoder_kwargs": {"embed_dim": 32, "depth": 1, "num_heads": 2},
            **{"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2},
        },
    }
    encoder = mae.load(untrained_run(tmp_path / "run", parse_config(values, {})))
    images = np.random.default_rng(0).integers(0, 65536, (3, 20, 24, 5), np.uint16)
    found = encoder.embed(images)
    assert found.shape == (3, 32) and encoder.bits == 16
    batch = torch.stack([encoder.transform(one) for one in images])
    np.testing.assert_allclose(encoder.embed(batch), found, atol=1e-5)
    assert np.abs(encoder.embed(images // 257) - found).max() > 1e-3  # no bits are dropped
    with pytest.raises(mae.UserError, match=r"has 3 channels, but data.in_chans is 5"):
        encoder.embed([images[0][..., :3]])


def test_an_autoencoder(shards, tmp_path, make_image):
    train_autoencoder("vae", shards, tmp_path / "run")
    model = mae.load(tmp_path / "run")
    images = [make_image(number) for number in range(3)]
    latents = model.latents(images)
    assert latents.shape == (3, 8) and model.latents([]).shape == (0, 8)
    decoded = model.decode(latents, batch_size=2)
    assert decoded.shape == (3, 16, 16, 3) and decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, model.reconstruct(images).images, atol=1e-5)
    assert model.decode(torch.zeros(0, 8)).shape == (0, 16, 16, 3)
    with pytest.raises(mae.UserError, match=r"latents: of shape \[3, 7\]: \[n, 8\] expected"):
        model.decode(latents[:, :7])
    samples = model.sample(3, seed=1)
    assert samples.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(model.sample(2, seed=1), samples[:2], atol=1e-5)
    assert model.sample(0).shape == (0, 16, 16, 3)
    assert model.model is model.objective and Path(model.source) == tmp_path / "run"
