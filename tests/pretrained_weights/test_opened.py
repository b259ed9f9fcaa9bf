"""Released weights opened without settings: equal to the libraries that they come from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import UserError
from mae.evaluation.encoders import FINE_TUNED, PRETRAINED, open_encoder
from mae.objectives.classifier.model import Classifier
from mae.objectives.mae.masking import PatchSplit
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import open_model, results_folder
from tests.pretrained_weights import released
from tests.pretrained_weights.released import (
    DEPTH,
    PATCHES,
    SIDE,
    fine_tuned,
    official_names,
    vitmae,
    write_release,
)

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def raw_images() -> torch.Tensor:
    """Random uint8 images [3 c h w]."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """ImageNet's normalisation, written out."""
    return (images / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def tokens_of(theirs, images: torch.Tensor) -> torch.Tensor:
    """Tokens of whole images by a ViTMAE of transformers."""
    theirs.vit.config.mask_ratio = theirs.vit.embeddings.config.mask_ratio = 0.0
    noise = torch.arange(PATCHES).expand(len(images), -1)
    return theirs.vit(pixel_values=images, noise=noise).last_hidden_state


def prediction_of(theirs, images: torch.Tensor, split: PatchSplit) -> torch.Tensor:
    """Predictions of the hidden patches by a ViTMAE of transformers."""
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(PATCHES, dtype=torch.float64).expand_as(shuffle)
    noise = torch.zeros_like(ranks).scatter(1, shuffle, ranks)
    found = theirs(pixel_values=images, noise=noise).logits
    return found.gather(1, split.ids_masked[:, :, None].expand(-1, -1, found.shape[2]))


@torch.no_grad()
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_released_file_predicts_as_transformers(tmp_path, norm_pix_loss):
    theirs = vitmae(norm_pix_loss)
    tensors = official_names(theirs)
    file = write_release(tmp_path / "x.pth", tensors, norm_pix_loss=norm_pix_loss)
    opened = open_model(file, with_decoder=True)
    ours, images = opened.objective, raw_images()
    assert isinstance(ours, MaskedAutoencoder)
    assert ours.norm_pix_loss == norm_pix_loss and opened.has_decoder and opened.step is None
    assert opened.init["keys_loaded"] == len(tensors)
    assert opened.init["skipped"] == {} and opened.init["kept"] == []
    split = ours.draw(images, torch.arange(3) * 7919)
    found = ours.predict(ours.patchify(images), split)
    expected = prediction_of(theirs, normalised(images), split)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    features = ours.encode(images).tokens
    whole = tokens_of(theirs, normalised(images))[:, 1:]
    torch.testing.assert_close(features, whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_encoder_alone_has_no_decoder(tmp_path):
    theirs = vitmae()
    tensors = {key: one for key, one in official_names(theirs).items() if "decoder" not in key}
    del tensors["mask_token"]
    opened = open_model(write_release(tmp_path / "x.pth", tensors), with_decoder=True)
    assert not opened.has_decoder and not hasattr(opened.objective, "decoder")
    found = opened.objective.encode(raw_images()).tokens
    expected = tokens_of(theirs, normalised(raw_images()))[:, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert any(
        "3 attention heads of the encoder, from its width 192" in one for one in opened.lines
    )
    assert any("mean [0.485, 0.456, 0.406] of the pixels, ImageNet's" in x for x in opened.lines)


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_a_folder_of_transformers_predicts_the_same(tmp_path, eps):
    theirs = vitmae()
    theirs.config.layer_norm_eps = eps
    theirs.save_pretrained(tmp_path)
    theirs = type(theirs).from_pretrained(tmp_path).eval()
    ours = open_model(tmp_path, with_decoder=True).objective
    assert isinstance(ours, MaskedAutoencoder)
    images = raw_images()
    split = ours.draw(images, torch.arange(3))
    found = ours.predict(ours.patchify(images), split)
    expected = prediction_of(theirs, normalised(images), split)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_released_classifier_gives_timm_s_logits(tmp_path, pool):
    theirs = fine_tuned(pool)
    file = write_release(tmp_path / "x.pth", theirs.state_dict(), global_pool=pool == "avg")
    opened = open_model(file)
    assert isinstance(opened.objective, Classifier)
    assert opened.init["keys_loaded"] == len(theirs.state_dict())
    found = opened.objective.logits(raw_images())
    torch.testing.assert_close(found, theirs(normalised(raw_images())), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_released_linear_probe_gives_the_logits_of_its_batchnorm(tmp_path):
    theirs = fine_tuned("token")
    norm = torch.nn.BatchNorm1d(192, affine=False, eps=1e-6)
    norm.running_mean, norm.running_var = torch.randn(192), torch.rand(192) + 0.5
    theirs.add_module("head", torch.nn.Sequential(norm.eval(), theirs.head))
    opened = open_model(write_release(tmp_path / "x.pth", theirs.state_dict()))
    assert isinstance(opened.objective, Classifier)
    found = opened.objective.logits(raw_images())
    torch.testing.assert_close(found, theirs(normalised(raw_images())), rtol=1e-4, atol=1e-4)
    assert any("BatchNorm before the head" in line for line in opened.lines)
    assert open_encoder(tmp_path / "x.pth").encoder.name == PRETRAINED  # the head alone is trained
    write_release(tmp_path / "y.pth", fine_tuned("token").state_dict())
    assert open_encoder(tmp_path / "y.pth").encoder.name == FINE_TUNED


@pytest.mark.parametrize(
    ("missing", "kind"),
    [
        ("blocks.1.mlp.fc2.bias", "encoder"),
        ("norm.weight", "encoder"),
        ("pos_embed", "encoder"),
        ("cls_token", "encoder"),
        ("decoder_blocks.0.attn.qkv.bias", "decoder"),
        ("decoder_pos_embed", "decoder"),
        ("mask_token", "decoder"),
        ("head.bias", "classifier"),
        ("fc_norm.bias", "classifier"),
    ],
)
def test_a_missing_tensor_is_named_and_nothing_stays_random(tmp_path, missing, kind):
    tensors = official_names(vitmae())
    if kind == "classifier":
        tensors = fine_tuned("avg").state_dict()
    del tensors[missing]
    with pytest.raises(UserError) as error:
        open_model(write_release(tmp_path / "x.pth", tensors), with_decoder=True)
    (line,) = str(error.value).splitlines()
    name = missing.removeprefix("decoder_")
    assert line.startswith(f"{tmp_path}/x.pth") and (name in line or name == "cls_token")


@pytest.mark.parametrize("added", ["blocks.0.mlp.fc3.weight", "decoder_blocks.0.mlp.fc3.weight"])
def test_an_unknown_tensor_is_named(tmp_path, added):
    tensors = official_names(vitmae()) | {added: torch.ones(2, 2)}
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.fc3\.weight has no place"):
        open_model(write_release(tmp_path / "x.pth", tensors), with_decoder=True)


def test_heads_of_other_widths_are_not_guessed(tmp_path):
    file = write_release(tmp_path / "x.pth", official_names(vitmae(width=40, heads=5)))
    with pytest.raises(
        UserError, match=r"width of 40 is none of the published sizes: give --num-h"
    ):
        open_model(file)
    opened = open_model(file, WeightOptions(num_heads=5))
    assert opened.config.model.model_dump()["encoder_kwargs"] == {
        "embed_dim": 40,
        "depth": DEPTH,
        "num_heads": 5,
    }
    with pytest.raises(UserError, match=r"--num-heads: 3 heads do not divide the width"):
        open_model(file, WeightOptions(num_heads=3))


def test_options_of_pixels_replace_imagenets(tmp_path):
    file = write_release(tmp_path / "x.pth", official_names(vitmae()))
    options = WeightOptions(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), norm_pix_loss=False)
    opened = open_model(file, options, with_decoder=True)
    assert opened.config.data.mean == (0.5, 0.5, 0.5) and opened.config.data.std[0] == 0.25
    assert isinstance(opened.objective, MaskedAutoencoder) and not opened.objective.norm_pix_loss
    assert len(opened.assumed) == 2  # the heads of encoder and decoder
    with pytest.raises(UserError, match=r"--mean: 2 numbers for images of 3 channels"):
        open_model(file, WeightOptions(mean=(0.5, 0.5)))


@pytest.mark.parametrize(
    ("name", "expected"), [("mae_visualize_vit_large.pth", False), ("x.pth", True)]
)
def test_an_unrecorded_target_is_assumed_and_said(tmp_path, name, expected):
    file = tmp_path / name
    torch.save({"model": official_names(vitmae())}, file)
    opened = open_model(file, with_decoder=True)
    assert isinstance(opened.objective, MaskedAutoencoder)
    assert opened.objective.norm_pix_loss is expected
    assert any("norm-pix-loss)" in line for line in opened.assumed)
    is_released = name.startswith("mae_visualize")
    assert ("licence CC-BY-NC-4.0: not for commercial use" in opened.lines) == is_released


def test_prefixes_of_trainers_and_bare_state_dicts(tmp_path):
    tensors = official_names(vitmae())
    for number, content in enumerate(
        (
            {"state_dict": {f"model.{key}": one for key, one in tensors.items()}, "epoch": 3},
            {"model": {f"module.{key}": one for key, one in tensors.items()}},
            tensors,
        )
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        assert open_model(tmp_path / f"{number}.pth", with_decoder=True).init["keys_loaded"] == len(
            tensors
        )
    save_file(tensors, tmp_path / "x.safetensors")
    assert open_model(tmp_path / "x.safetensors", with_decoder=True).has_decoder


def test_layer_scale_without_decoder_as_in_dinov2(tmp_path):
    import timm

    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2, init_values=0.1, num_classes=0
    )
    assert isinstance(theirs, VisionTransformer)
    theirs = released.shaken(theirs.eval(), 4)
    torch.save({**theirs.state_dict(), "mask_token": torch.zeros(1, 192)}, tmp_path / "dino.pth")
    opened = open_model(tmp_path / "dino.pth")
    found = opened.objective.encode(raw_images()).pooled["cls"]
    expected = theirs.forward_features(normalised(raw_images()))[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert opened.init["skipped"] == {"mask_token": "no decoder beside it"}


def test_results_lie_beside_a_file_and_here_for_hubs(tmp_path):
    file = tmp_path / "x.pth"
    assert results_folder(file) == tmp_path / "x.pth-evaluations"
    assert results_folder(file, tmp_path / "o" / "knn.json") == tmp_path / "o"
    assert results_folder(Path("hf:some/one")) == Path("some-one-evaluations")


def test_a_source_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^.*/gone.pth: no such file or folder"):
        open_model(tmp_path / "gone.pth")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="neither a run"):
        open_model(tmp_path)
