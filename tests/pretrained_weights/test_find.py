"""Sources of weights: files, folders, hubs, each against its own library's features."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

from mae.base.errors import UserError
from mae.config.sections import DataConfig, InitConfig
from mae.networks.initial_weights import sincos_positions
from mae.networks.vit import build_encoder
from mae.objectives.base import total_loss
from mae.objectives.mae.implementation import start_mae
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.fit import load_encoder
from tests.pretrained_weights.models import NAME, classifier, our_mae, shaken, some_images

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}
PATCHES = 16
NUMBERS = (0.5, 0.5, 0.5)


def start(model, source, **settings):
    """`start_mae`, as the settings would say it."""
    init = InitConfig.model_validate({"from": str(source), **settings})
    return start_mae(model, init, DataConfig(mean=NUMBERS, std=NUMBERS))


def saved_vitmae(folder: Path) -> ViTMAEForPreTraining:
    config = ViTMAEConfig(
        **SIZES,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        norm_pix_loss=True,
    )
    model = shaken(ViTMAEForPreTraining(config).eval(), 1)
    with torch.no_grad():
        model.decoder.decoder_pos_embed[:, 1:] = sincos_positions(16, (4, 4))
        model.decoder.decoder_pos_embed[:, :1] = 0
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("names", ["as saved", "as on the hub"])
def test_a_vitmae_of_transformers_gives_features_and_loss(tmp_path, names):
    theirs, ours = saved_vitmae(tmp_path), our_mae(seed=2)
    if names == "as on the hub":  # where weights bear the names that they were first saved with
        tensors = load_file(tmp_path / "model.safetensors")
        old = {
            key.replace("decoder_encoder.layer", "decoder_layers"): tensor
            for key, tensor in tensors.items()
        }
        (tmp_path / "model.safetensors").unlink()
        torch.save(old, tmp_path / "pytorch_model.bin")
    done = start(ours, tmp_path)
    assert done.lines[0].startswith("init    30 of 30 encoder tensors and 32 of 32 decoder tensors")
    assert "skipped" not in done.lines[0]
    assert done.record["skipped"] == {}

    images = some_images()
    split = ours.draw(images, torch.arange(3) * 7919)
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(PATCHES, dtype=torch.float64).expand_as(shuffle)
    noise = torch.zeros_like(ranks).scatter(1, shuffle, ranks)
    expected = theirs(pixel_values=images, noise=noise).loss
    found = total_loss(ours(images, split, torch.tensor(0.0)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    theirs.vit.config.mask_ratio = theirs.vit.embeddings.config.mask_ratio = 0.0
    whole = theirs.vit(pixel_values=images, noise=torch.arange(PATCHES).expand(3, -1))
    torch.testing.assert_close(
        ours.encoder.forward_features(images), whole.last_hidden_state, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [
        (ViTModel, {"pooler.dense.weight", "pooler.dense.bias"}),
        (ViTForImageClassification, {"classifier.weight", "classifier.bias"}),
    ],
)
def test_a_vit_of_transformers_gives_its_features(tmp_path, kind, skipped):
    theirs = shaken(kind(ViTConfig(**SIZES)).eval(), 1)
    theirs.save_pretrained(tmp_path)
    ours = our_mae()
    done = start(ours, tmp_path)
    assert done.record["skipped"] == dict.fromkeys(skipped, "a head")
    images = some_images()
    body = theirs if isinstance(theirs, ViTModel) else theirs.vit
    torch.testing.assert_close(
        ours.encoder.forward_features(images),
        body(pixel_values=images).last_hidden_state,
        rtol=1e-5,
        atol=1e-5,
    )


def original_names(model):
    """Tensors as in the paper's release: both position embeddings have a class token's row."""
    tensors = {key: tensor.clone() for key, tensor in model.encoder.state_dict().items()}
    for key, tensor in model.decoder.state_dict().items():
        tensors[key if key == "mask_token" else f"decoder_{key}"] = tensor.clone()
    row = torch.zeros(1, 1, tensors["decoder_pos_embed"].shape[2])
    tensors["decoder_pos_embed"] = torch.cat([row, tensors["decoder_pos_embed"]], dim=1)
    return tensors


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_the_original_layout_fills_everything(tmp_path, prefix):
    source, target = shaken(our_mae(), 1), our_mae(seed=2)
    tensors = {f"{prefix}{key}": tensor for key, tensor in original_names(source).items()}
    torch.save({"model": tensors}, tmp_path / "x.pth")
    done = start(target, tmp_path / "x.pth")
    assert done.record["keys_loaded"] == len(tensors) == len(target.state_dict())
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


def test_a_classifier_of_timm_under_a_wrapper_s_name(tmp_path):
    source, target = classifier(), our_mae()
    tensors = {f"encoder.{key}": tensor for key, tensor in source.state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors")
    done = start(target, tmp_path / "x.safetensors")
    assert done.lines == [
        f"init    30 of 30 encoder tensors from {tmp_path}/x.safetensors "
        "(skipped: encoder.head.bias, encoder.head.weight: a head)",
        "init    positions are the source's, not sine and cosine; they stay fixed",
    ]
    images = some_images()
    expected = source.forward_features(images)
    torch.testing.assert_close(target.encoder.forward_features(images), expected)


def test_two_models_in_one_file_are_refused(tmp_path):
    tensors = classifier().state_dict()
    both = {
        f"{who}{key}": tensor.clone() for key, tensor in tensors.items() for who in ("", "vit.")
    }
    save_file(both, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"are both .*: give a file that holds one model"):
        start(our_mae(), tmp_path / "x.safetensors")


def test_two_of_one_name_are_the_two_of_one_part(tmp_path):
    """Encoder and decoder have a norm each."""
    names = ("norm.weight", "decoder_norm.weight", "vit.norm.weight")
    torch.save({name: torch.ones(3) for name in names}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"pth: norm.weight and vit.norm.weight are both norm.w"):
        find_weights(str(tmp_path / "x.pth"))


def test_a_foreign_network_is_refused(tmp_path):
    save_file({"conv1.weight": torch.ones(4, 3, 7, 7)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"conv1.weight has no place in model.encoder"):
        start(our_mae(), tmp_path / "x.safetensors")


def test_a_folder_of_timm_s_hub_format_records_heads_and_grid(tmp_path):
    source = our_mae(img_size=(16, 64), seed=1)
    save_file(source.encoder.state_dict(), tmp_path / "model.safetensors")
    save_file(source.decoder.state_dict(), tmp_path / "decoder.safetensors")
    arguments = {"img_size": [16, 64], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    config = {"architecture": NAME, "num_classes": 0, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = find_weights(str(tmp_path))
    assert (weights.geometry.num_heads, weights.geometry.grid) == (4, (2, 8))
    target = our_mae(img_size=(16, 64))
    assert start(target, tmp_path).record["keys_loaded"] == len(source.state_dict())
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json is damaged"),
        ("[]", "config.json describes no model"),
        ('{"model_type": "bert"}', "config.json names bert"),
        ('{"model_type": "vit", "hidden_act": "relu"}', "its activation is relu"),
        ('{"model_type": "vit"}', "config.json describes no valid model: 'image_size'"),
        ('{"architecture": "resnet18"}', "resnet18 is a ResNet"),
        ('{"architecture": "nix"}', "config.json describes no valid model: Unknown model"),
    ],
)
def test_a_config_that_describes_no_vit_is_refused(tmp_path, config, message):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=message) as error:
        find_weights(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1


def test_what_is_not_there_is_reported_with_a_hint(tmp_path):
    with pytest.raises(UserError, match=r"init.from: nix: no such file or folder \(timm:NAME"):
        find_weights("nix")
    with pytest.raises(UserError, match=f"did you mean timm:{NAME}"):
        find_weights(NAME)
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"neither a run .* give one of its files: x.safetensors"):
        find_weights(str(tmp_path))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A folder that stands for the hub: `hub/OWNER/NAME`."""

    def fetch(repo_id, filename):
        path = tmp_path / "hub" / repo_id / filename
        if not path.parent.exists():
            raise LocalEntryNotFoundError("cannot find the requested files")
        if not path.exists():
            raise EntryNotFoundError(f"404: {filename}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return tmp_path / "hub"


def test_a_model_of_the_hub_and_its_licence(hub):
    saved_vitmae(hub / "someone" / "vit")
    (hub / "someone" / "vit" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    done = start(our_mae(), "hf:someone/vit")
    assert done.lines[0].endswith("decoder tensors from hf:someone/vit")
    assert done.lines[-1] == (
        "init    licence CC-BY-NC-4.0: not for commercial use; "
        "noted in init.json and the model card"
    )
    assert done.record["license"] == "cc-by-nc-4.0"
    assert done.record["non_commercial"] is True

    shutil.copytree(hub / "someone" / "vit", hub / "facebook" / "vit-mae-tiny")
    (hub / "facebook" / "vit-mae-tiny" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert start(our_mae(), "hf:facebook/vit-mae-tiny").record["non_commercial"] is True


def test_a_hub_out_of_reach_or_without_weights_is_one_line(hub):
    with pytest.raises(UserError, match=r"init.from: hf:some/one: the hub cannot be reached"):
        find_weights("hf:some/one")
    (hub / "some" / "one").mkdir(parents=True)
    (hub / "some" / "one" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"hf:some/one: cannot be fetched: 404: pytorch_model.bin"):
        find_weights("hf:some/one")


def test_timm_s_weights_come_with_their_licence(monkeypatch):
    create = timm.create_model

    def without_network(name, pretrained=False, **arguments):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return create(name, pretrained=False, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    name = f"{NAME}.augreg_in21k_ft_in1k"
    weights = find_weights(f"timm:{name}")
    assert weights.licence == ("apache-2.0", False, False)
    assert (weights.geometry.num_heads, weights.geometry.grid) == (3, (14, 14))
    encoder, source = build_encoder(NAME), without_network(name)
    loaded = load_encoder(encoder, weights)
    assert loaded.skipped.keys() == {"head.weight", "head.bias"}
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"timm:{NAME}.augreg_in21k_ft_in1k", "the hub cannot be reached, and its cache"),
        (f"timm:{NAME}.nix", r"cannot be fetched: Invalid pretrained tag \(nix\)"),
        ("timm:nix", r"timm has no such model"),
        ("timm:resnet18", "a ResNet, not timm.s VisionTransformer or"),
    ],
)
def test_timm_s_weights_not_to_be_had_are_one_line(monkeypatch, tmp_path, source, message):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"init.from: {source}: .*{message}") as error:
        find_weights(source)
    assert len(str(error.value).splitlines()) == 1
