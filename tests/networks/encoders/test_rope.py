"""Visible patches of encoders, against timm's own path for dropped patches."""

from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva

from mae.base.errors import UserError
from mae.networks.encoders.registry import adapter_of
from mae.networks.encoders.rope import RopeAdapter
from mae.networks.patches import patchify
from mae.networks.vit import build_encoder, forward_visible, layer_groups, parameter_groups
from tests.networks.encoders.option_sets import ROPE, tiny_arguments
from tests.pretrained_weights.models import shaken

SIZE = (16, 24)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
VARIANTS = [
    *((name, {}) for name in ROPE),
    ("vit_small_patch16_dinov3", {"dynamic_img_size": True}),
    (
        "vit_small_patch16_rope_224",
        {"rope_type": "mrope", "rope_grid_indexing": "ij", "rope_mrope_section": (2, 3, 3)},
    ),
]


def tiny(name: str, **arguments) -> Eva:
    sizes: dict[str, Any] = {"img_size": SIZE, "patch_size": 4, **tiny_arguments(name)}
    encoder = shaken(build_encoder(name, **{**sizes, **arguments}), 1).double()
    assert isinstance(encoder, Eva)
    return encoder


def some_images(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=generator)


def visible_of(images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    patches = patchify(images, (4, 4))
    return patches.gather(1, ids[:, :, None].expand(-1, -1, patches.shape[2]))


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)
def test_values_and_gradients_equal_timms_own_patch_dropout(name, arguments):
    """In training, so that Sapiens2's random rescaling of positions is drawn in both."""
    ours, images = tiny(name, **arguments), some_images()
    sizes: dict[str, Any] = {"img_size": SIZE, "patch_size": 4, **tiny_arguments(name)}
    sizes |= {"dynamic_img_size": False, **arguments}
    theirs = timm.create_model(
        name,
        num_classes=0,
        global_pool="",
        patch_drop_rate=0.7,
        **sizes,
    ).double()
    assert isinstance(theirs, Eva) and theirs.patch_drop is not None
    theirs.load_state_dict(ours.state_dict(), strict=True)
    kept: list[torch.Tensor] = []
    theirs.patch_drop.register_forward_hook(lambda module, inputs, output: kept.append(output[1]))
    ours.train(), theirs.train()
    torch.manual_seed(7)
    expected = theirs.forward_features(images)
    torch.manual_seed(7)
    ids = kept[0]
    found = forward_visible(ours, visible_of(images, ids), ids)
    assert ids.shape == (3, 7) and len(found) == 2
    torch.testing.assert_close(found[-1], expected, **EXACT)

    weights = torch.randn(expected.shape, dtype=torch.float64)
    (expected * weights).sum().backward()
    (found[-1] * weights).sum().backward()
    gradients = {key: p.grad for key, p in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(gradients[key], parameter.grad, **EXACT, msg=key)


@pytest.mark.parametrize("name", ROPE)
def test_with_nothing_hidden_it_equals_forward_features(name):
    encoder, images = tiny(name).eval(), some_images(2)
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(24, generator=generator) for _ in range(2)])
    with torch.no_grad():
        encoder.set_grad_checkpointing()
        found = forward_visible(encoder, visible_of(images, ids), ids)[-1]
        encoder.set_grad_checkpointing(False)
        expected = encoder.forward_features(images)
    prefix = adapter_of(encoder).shape(encoder).num_prefix_tokens
    order = torch.cat([torch.arange(prefix).expand(2, -1), ids + prefix], dim=1)
    expected = expected.gather(1, order[:, :, None].expand_as(expected))
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", ROPE)
def test_initial_weights_are_those_of_the_paper(name):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": SIZE, "patch_size": 4, **tiny_arguments(name)}
    encoder = build_encoder(name, **sizes)
    frequencies = {key: p.clone() for key, p in encoder.named_parameters() if "rope" in key}
    adapter_of(encoder).initialize(encoder)
    for key, parameter in encoder.named_parameters():
        if key == "pos_embed":
            assert not parameter.requires_grad
        elif key in frequencies:
            assert torch.equal(parameter, frequencies[key])
        elif key.endswith("bias"):
            assert not parameter.any(), key
        elif parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.8 * bound < parameter.abs().max() <= bound, key
        elif "gamma" not in key and parameter.ndim == 1:
            assert parameter.eq(1).all(), key


def test_frequencies_of_mixed_rotations_are_not_decayed_and_lie_lowest():
    encoder = tiny("vit_small_patch16_rope_mixed_224")
    names = {id(p): key for key, p in encoder.named_parameters()}
    decayed, undecayed = parameter_groups(encoder, 0.05)
    assert "rope.freqs" not in {names[id(p)] for p in decayed["params"]}
    assert "rope.freqs" in {names[id(p)] for p in undecayed["params"]}
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in layer_groups(encoder, 0.05, 0.5)
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["rope.freqs"] == (0.125, 0)
    assert found["cls_token"] == (0.125, 0) and found["patch_embed.proj.weight"] == (0.125, 0.05)
    assert found["blocks.0.gamma_1"] == (0.25, 0)
    assert found["blocks.1.attn.qkv.weight"] == (0.5, 0.05) and found["norm.weight"] == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_rot_pos_emb": False}, "neither absolute nor rotary positions"),
        ({"patch_drop_rate": 0.5}, "patch dropout"),
        ({"use_fc_norm": True}, "a norm after the pooling"),
    ],
)
def test_options_that_keep_patches_in_are_refused(arguments, message):
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, **arguments}
    with pytest.raises(UserError, match=f"rope_224 is not supported: it has {message}"):
        build_encoder("vit_small_patch16_rope_224", **sizes)


def test_another_size_is_timms():
    encoder, images = tiny("vit_small_patch16_rope_mixed_ape_224").eval(), some_images(1)
    adapter = adapter_of(encoder)
    assert isinstance(adapter, RopeAdapter)
    adapter.resize(encoder, (24, 16))
    assert adapter.shape(encoder).grid_size == (6, 4)
    moved = images.transpose(2, 3)
    ids = torch.arange(24)[None]
    found = forward_visible(encoder, visible_of(moved, ids), ids)[-1]
    torch.testing.assert_close(found, encoder.forward_features(moved), **EXACT)


def test_heads_that_rotations_cannot_divide_are_refused():
    with pytest.raises(UserError, match="embed_dim 36, num_heads 2: rotary positions need"):
        build_encoder("vit_small_patch16_dinov3", embed_dim=36, num_heads=2, depth=1)
