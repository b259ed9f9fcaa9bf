"""Tensors counted, adapted as timm adapts them, or refused by name."""

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import UserError
from mae.networks.encoders.plain import position_embedding
from mae.objectives.mae.implementation import load_decoder
from mae.pretrained_weights.fit import load_encoder
from mae.pretrained_weights.licence import Licence
from mae.pretrained_weights.names import to_our_names
from mae.pretrained_weights.weight_files import Geometry, Weights
from tests.pretrained_weights.models import NAME, SIZES, classifier, our_mae, shaken, some_images


def weights_of(tensors, **geometry):
    return Weights("W", *to_our_names(tensors, "W"), Geometry(**geometry), "", Licence())


def test_a_classifier_gives_all_but_its_head():
    source, model = classifier(), our_mae()
    loaded = load_encoder(model.encoder, weights_of(source.state_dict()))
    images = some_images()
    expected = source.forward_features(images)
    torch.testing.assert_close(model.encoder.forward_features(images), expected)
    assert loaded.tensors == loaded.of == len(model.encoder.state_dict())
    assert loaded.skipped == {"head.weight": "a head", "head.bias": "a head"}
    assert loaded.kept == ()
    assert loaded.notes == ("positions are the source's, not sine and cosine; they stay fixed",)
    assert not position_embedding(model.encoder).requires_grad


def test_a_classifier_of_ours_keeps_its_fresh_head_and_norm():
    source, target = our_mae(seed=1), classifier(global_pool="avg", fc_norm=True)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    fresh = ("head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias")
    loaded = load_encoder(target, weights_of(source.encoder.state_dict()), fresh=fresh)
    after, theirs = target.state_dict(), source.encoder.state_dict()
    assert set(loaded.kept) == set(fresh)
    assert loaded.skipped.keys() == {"norm.weight", "norm.bias"}
    assert loaded.notes == ()
    for key in after:
        assert torch.equal(after[key], before[key] if key in fresh else theirs[key]), key


def test_without_leave_a_fresh_tensor_is_refused():
    with pytest.raises(UserError, match=r"W lacks head.weight \(and 1 more\) of model.encoder"):
        load_encoder(classifier(), weights_of(our_mae().encoder.state_dict()))


def broken(change):
    tensors = our_mae(seed=1).encoder.state_dict()
    change(tensors)
    return weights_of(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "init.from: W lacks norm.bias of model.encoder: set model"),
        (
            lambda t: t.update({"blocks.2.norm1.weight": torch.ones(32)}),
            "blocks.2.norm1.weight has no place in model.encoder",
        ),
        (
            lambda t: t.update({"norm.bias": torch.ones(48)}),
            r"norm.bias has shape \[48\], the model's has \[32\]: nothing adapts that",
        ),
        (
            lambda t: t.update({"pos_embed": torch.ones(1, 17, 48)}),
            r"pos_embed has shape \[1, 17, 48\], .* nothing adapts that",
        ),
        (
            lambda t: t.update({"pos_embed": torch.ones(1, 12, 32)}),
            r"pos_embed has shape \[1, 12, 32\], .* with 1 prefix tokens: no grid has so many",
        ),
        (lambda t: t["norm.bias"].__setitem__(3, torch.nan), "damaged: norm.bias holds numbers"),
        (
            lambda t: t.update({"norm.bias": torch.ones(32, dtype=torch.int8)}),
            "W: norm.bias holds int8: weights are read as float numbers only",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change, message):
    model = our_mae()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        load_encoder(model.encoder, broken(change), adapt_channels=True, adapt_size=True)
    assert len(str(error.value).splitlines()) == 1
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_other_attention_heads_are_no_other_shapes_and_refused():
    weights = weights_of(our_mae().encoder.state_dict(), num_heads=2)
    with pytest.raises(UserError, match=r"2 attention heads, model.encoder has 4"):
        load_encoder(our_mae().encoder, weights)


def test_a_source_without_positions_keeps_ours():
    tensors = our_mae(seed=1).encoder.state_dict()
    del tensors["pos_embed"]
    loaded = load_encoder(our_mae().encoder, weights_of(tensors))
    assert loaded.kept == ("pos_embed",)
    assert loaded.notes == ("the source has no positions: the model's own stay",)


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels_see_the_same_in_copies_of_an_image(channels):
    source, model = classifier(), our_mae(in_chans=channels)
    with pytest.raises(UserError, match=r"\[32, 3, 8, 8\].*: init.adapt_channels=true adapts it"):
        load_encoder(model.encoder, weights_of(source.state_dict()))
    loaded = load_encoder(model.encoder, weights_of(source.state_dict()), adapt_channels=True)
    assert loaded.notes[0] == f"patch projection adapted from 3 to {channels} channels"
    images = some_images(channels=1)
    torch.testing.assert_close(
        model.encoder.forward_features(images.expand(-1, channels, -1, -1)),
        source.forward_features(images.expand(-1, 3, -1, -1)),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_adapts_from_other_than_three_channels(channels):
    source = weights_of(our_mae(in_chans=7).encoder.state_dict())
    with pytest.raises(UserError, match="only 3 channels can be adapted"):
        load_encoder(our_mae(in_chans=channels).encoder, source, adapt_channels=True)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"img_size": (48, 48)},
            r"\(4 x 4 patches, now 6 x 6\): init.adapt_size=true interpolates it",
        ),
        ({"img_size": (64, 64), "patch_size": 16}, "init.adapt_size=true adapts it"),
    ],
)
def test_other_sizes_are_adapted_as_timm_does(tmp_path, sizes, message):
    source, model = classifier(), our_mae(**sizes)
    with pytest.raises(UserError, match=message):
        load_encoder(model.encoder, weights_of(source.state_dict()))
    loaded = load_encoder(model.encoder, weights_of(source.state_dict()), adapt_size=True)
    assert any("resampled" in note for note in loaded.notes)
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    arguments: dict[str, Any] = {"patch_size": 8, **SIZES, **sizes}
    theirs = timm.create_model(
        NAME,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "source.safetensors"), "num_classes": 5},
        num_classes=5,
        **arguments,
    )
    assert isinstance(theirs, VisionTransformer)
    expected = theirs.state_dict()
    for key, tensor in model.encoder.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], msg=key)


def test_as_many_patches_in_another_grid_are_another_size():
    source = our_mae(img_size=(16, 64), seed=1).encoder  # 2 x 8 patches
    weights = weights_of(source.state_dict(), grid=(2, 8))
    with pytest.raises(UserError, match=r"\(2 x 8 patches, now 4 x 4\)"):
        load_encoder(our_mae().encoder, weights)
    same = our_mae(img_size=(16, 64)).encoder
    assert load_encoder(same, weights).notes == ()
    assert torch.equal(position_embedding(same), position_embedding(source))


def test_a_decoder_comes_whole_or_not_at_all():
    source = shaken(our_mae(), 1)
    tensors = source.state_dict()
    target = our_mae(seed=2)
    assert load_decoder(target.decoder, weights_of(tensors), (4, 4)).tensors == len(
        target.decoder.state_dict()
    )
    for key, tensor in target.decoder.state_dict().items():
        assert torch.equal(tensor, tensors[f"decoder.{key}"]), key

    for arguments, geometry, reason in [
        ({"decoder_depth": 1}, {}, "a decoder of another architecture"),
        ({"decoder_embed_dim": 8}, {}, "a decoder of other sizes"),
        ({"decoder_num_heads": 4}, {"decoder_num_heads": 2}, "a decoder with other attention"),
    ]:
        target = our_mae(**arguments)
        before = {key: tensor.clone() for key, tensor in target.decoder.state_dict().items()}
        loaded = load_decoder(target.decoder, weights_of(tensors, **geometry), (4, 4))
        assert loaded.tensors == 0
        assert loaded.skipped.keys() == {key for key in tensors if key.startswith("decoder.")}
        assert all(text.startswith(reason) for text in loaded.skipped.values())
        for key, tensor in target.decoder.state_dict().items():
            assert torch.equal(tensor, before[key]), key


def test_a_damaged_decoder_is_refused():
    tensors = our_mae().state_dict()
    tensors["decoder.pred.bias"][0] = torch.inf
    with pytest.raises(UserError, match=r"decoder: damaged: pred.bias holds numbers"):
        load_decoder(our_mae().decoder, weights_of(tensors), (4, 4))
