"""Visible mask units of Hiera, against timm's own `mask` argument."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.hiera import Hiera

from mae.base.errors import UserError
from mae.networks.encoders.hiera import HieraAdapter
from mae.networks.patches import patchify
from mae.networks.vit import build_encoder, forward_visible, layer_groups, parameter_groups
from mae.objectives.mae.chosen_masks import choose_masks
from mae.objectives.mae.masking import binary_mask
from mae.objectives.mae.model import MaskedAutoencoder
from tests.pretrained_weights.models import shaken

ADAPTER = HieraAdapter()
SIZE = (32, 48)
UNITS = 24
EXACT = {"rtol": 1e-10, "atol": 1e-10}
THREE = {"embed_dim": 8, "num_heads": 1, "stages": [1, 2, 2]}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("hiera_tiny_224", THREE),
    ("hiera_tiny_224", {**THREE, "q_pool": 1}),  # 2 x 2 tokens a unit, as in the release
    ("hiera_tiny_224", {**THREE, "stages": [1, 1, 1], "mask_unit_attn": [0, 0, 0], "num_heads": 2}),
    ("hiera_tiny_224", {**THREE, "stages": [1, 1, 1, 2], "q_pool": 2}),
    ("hiera_tiny_224", {**THREE, "patch_kernel": [2, 2], "patch_padding": [0, 0]}),  # no overlap
    ("hiera_small_abswin_256", {**THREE, "global_pos_size": [3, 5]}),
    ("hiera_base_plus_224", {**THREE, "init_values": 0.1, "num_heads": 2}),
]


def tiny(name: str, **arguments) -> Hiera:
    pools = arguments.get("q_pool", len(arguments["stages"]) - 1)
    patch = 8 // 2 ** (len(arguments["stages"]) - 1 - pools)  # mask units of 8 px
    encoder = build_encoder(name, img_size=SIZE, patch_size=patch, **arguments)
    encoder = shaken(encoder, 1).double()
    assert isinstance(encoder, Hiera)
    return encoder


def some_images(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=generator)


def kept_units(count: int = 3, kept: int = 10, units: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    chosen = [torch.randperm(units, generator=generator)[:kept] for _ in range(count)]
    return torch.stack(chosen).sort(dim=1).values


def visible(
    encoder: Hiera, images: torch.Tensor, units: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the patches of mask units, and their numbers."""
    ids = ADAPTER.mask_units(encoder)[units].flatten(1)
    patches = patchify(images, ADAPTER.shape(encoder).patch_size)
    return patches.gather(1, ids[:, :, None].expand(-1, -1, patches.shape[2])), ids


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_values_and_gradients_equal_timms_masks(variant):
    name, arguments = VARIANTS[variant]
    ours, theirs = tiny(name, **arguments), tiny(name, **arguments)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images, ids = some_images(), kept_units()
    mask = torch.zeros(3, 24, dtype=torch.bool).scatter(1, ids, torch.ones(3, 10, dtype=torch.bool))
    expected, stages = theirs.forward_features(images, mask, return_intermediates=True)
    pixels, patches = visible(ours, images, ids)
    found = forward_visible(ours, pixels, patches)
    per_unit = len(patches[0]) // 10
    assert found[-1].shape == (3, 10 * per_unit, theirs.num_features)
    expected = expected.unflatten(1, (per_unit, 10)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(found[-1], expected, **EXACT)
    assert len(found) == len(stages)
    for number, (one, other) in enumerate(zip(found[:-1], stages[:-1], strict=True)):
        rolled = ours.reroll(one, ours.stage_ends[number], mask=mask)
        torch.testing.assert_close(rolled, other, **EXACT)

    weights = torch.randn(expected.shape, dtype=torch.float64)
    (expected * weights).sum().backward()
    (found[-1] * weights).sum().backward()
    gradients = {key: p.grad for key, p in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        assert (parameter.grad is None) == key.startswith("head.norm"), key
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[key], parameter.grad, **EXACT, msg=key)


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_with_nothing_hidden_it_equals_forward_features(variant):
    name, arguments = VARIANTS[variant]
    encoder, images = tiny(name, **arguments).eval(), some_images(2)
    units = torch.stack([torch.randperm(UNITS, generator=torch.Generator().manual_seed(2))] * 2)
    with torch.no_grad():
        encoder.set_grad_checkpointing()
        pixels, patches = visible(encoder, images, units)
        found = forward_visible(encoder, pixels, patches)[-1]
        encoder.set_grad_checkpointing(False)
        expected = encoder.forward_features(images)
        by_rows = ADAPTER.ordered(encoder, expected)
    # Of each image the tokens of timm, by rows; the norm is behind timm's pooling.
    by_rows = by_rows.gather(1, patches[:, :, None].expand_as(by_rows))
    torch.testing.assert_close(encoder.head.norm(found), by_rows, **EXACT)
    last = encoder.forward_intermediates(images, intermediates_only=True)[-1]
    assert isinstance(last, torch.Tensor)
    spread = last.flatten(2).transpose(1, 2).gather(1, patches[:, :, None].expand_as(found))
    torch.testing.assert_close(found, spread, **EXACT)


def test_hidden_pixels_change_nothing():
    """Kernels reach over the edges of units; what is hidden there must be zero, not pixels."""
    encoder, images, ids = tiny("hiera_tiny_224", **THREE), some_images(), kept_units()
    model = MaskedAutoencoder(
        encoder, mask_ratio=0.6, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    ).double()
    patches = patchify(images, (8, 8))
    before = model.forward_encoder(patches, ids)[-1]
    hidden = torch.ones(3, 24, dtype=torch.bool).scatter(1, ids, torch.zeros(3, 10).bool())
    after = model.forward_encoder(patches.masked_fill(hidden[:, :, None], 7.0), ids)[-1]
    assert torch.equal(before, after)


@pytest.mark.parametrize("pools", [2, 1])
def test_the_fusion_is_the_releases_convolution_of_each_stage(pools):
    """Kernel and stride of the tokens that become one; timm's last norm normalises the sum."""
    encoder, images = tiny("hiera_tiny_224", **THREE, q_pool=pools).eval(), some_images(1)
    fusion: Any = ADAPTER.build_fusion(encoder).double()
    pixels, patches = visible(encoder, images, torch.arange(UNITS)[None])
    features = forward_visible(encoder, pixels, patches)
    found = ADAPTER.fuse(encoder, fusion, features)
    maps: Any = encoder.forward_intermediates(images, intermediates_only=True)
    sides = [(16, 24), (8, 12), (4, 6)] if pools == 2 else [(32 // 2, 48 // 2), (8, 12), (8, 12)]
    assert [one.shape[2:] for one in maps] == sides
    expected = maps[-1]
    for number, side in enumerate((4, 2)[:pools] if pools == 2 else (2,)):
        stage, width = fusion.stages[number], 8 * 2**number
        # The linear layer has the tokens of a unit in timm's order: halves of halves.
        weight = stage.weight.unflatten(1, (side * side, width))
        halves = [2] * (2 * (side // 2))  # parity of row and column first, then that of halves
        axes = [*range(0, len(halves), 2)][::-1] + [*range(1, len(halves), 2)][::-1]
        order = torch.arange(side * side).view(halves).permute(axes).reshape(side, side)
        kernel = weight[:, order].permute(0, 3, 1, 2)
        expected = expected + torch.nn.functional.conv2d(
            maps[number], kernel, stage.bias, stride=side
        )
    expected = encoder.head.norm(expected.flatten(2).transpose(1, 2))
    expected = expected.gather(1, patches[:, :, None].expand_as(expected))
    torch.testing.assert_close(found, expected, **EXACT)


def test_all_weights_learn_and_initial_ones_are_the_papers():
    torch.manual_seed(0)
    encoder = build_encoder("hiera_tiny_224", img_size=SIZE, patch_size=8, **THREE)
    before = encoder.pos_embed
    model = MaskedAutoencoder(
        encoder, mask_ratio=0.6, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )
    assert encoder.pos_embed is before and before is not None and before.requires_grad
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            assert not parameter.any(), key
        elif parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.8 * bound < parameter.abs().max() <= bound, key
    images = some_images().float()
    output = model(images, model.draw(images, torch.arange(3)), torch.zeros(()))
    output.losses["reconstruction"].backward()
    silent = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_groups_of_parameters():
    encoder = tiny("hiera_small_abswin_256", **THREE, global_pos_size=[3, 5])
    names = {id(p): key for key, p in encoder.named_parameters()}
    undecayed = {names[id(p)] for p in parameter_groups(encoder, 0.05)[1]["params"]}
    assert {"pos_embed", "pos_embed_win", "blocks.0.norm1.weight"} <= undecayed
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in layer_groups(encoder, 0.05, 0.5)
        for p in group["params"]
    }
    assert found.keys() == set(names.values())
    assert found["pos_embed_win"] == (0.5**6, 0)
    assert found["patch_embed.proj.weight"] == (0.5**6, 0.05)
    assert found["blocks.4.mlp.fc1.weight"] == (0.5, 0.05) and found["head.norm.weight"] == (1, 0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 6, **THREE}, "multiples of 4 px, not 6 px"),
        ({"patch_size": 8, **THREE, "patch_stride": [4, 4]}, "make patches of 16 px"),
        ({"patch_size": 8, **THREE, "q_pool": 3}, "with 3 stages 1 to 2 halve"),
        ({"patch_size": 8, **THREE, "stages": 4}, "stages: 4: give the number of blocks"),
        ({"patch_size": 8, **THREE, "stages": [1]}, "at least two"),
        ({"patch_size": 32, **THREE, "stages": [1] * 6}, "timm cannot build hiera_tiny_224"),
        ({"patch_size": 4, **THREE, "stages": [1, 2]}, "attention within mask units only"),
        ({"patch_size": 8, **THREE, "sep_pos_embed": True}, "timm cannot build"),
        ({"patch_size": 4, **THREE, "q_pool": 1, "img_size": (36, 36)}, "mask units of 8 x 8"),
        ({"img_size": (226, 226)}, "226 x 226 does not divide into patches of 32 x 32"),
        ({"patch_size": 8, **THREE, "patch_drop_rate": 0.5}, "patch dropout"),
        ({"patch_size": 32, "img_size": (80, 80)}, "80 x 80 does not divide into patches of 32"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        chosen: dict[str, Any] = {"img_size": SIZE, **sizes}
        build_encoder("hiera_tiny_224", **chosen)
    assert "\n" not in str(caught.value)


def test_patch_size_is_the_mask_unit():
    """At 32 px as timm has it, kernels of 7 px with strides of 4 px; at 4 px single pixels."""
    with torch.device("meta"):
        usual = timm.create_model("hiera_small_224", num_classes=0)
        same = build_encoder("hiera_small_224", patch_size=32)
        small = build_encoder("hiera_small_224", img_size=(32, 32), patch_size=4, stages=[1, 2, 3])
    shapes = [{key: p.shape for key, p in one.named_parameters()} for one in (usual, same)]
    assert shapes[0] == shapes[1]
    assert isinstance(usual, Hiera) and isinstance(same, Hiera) and isinstance(small, Hiera)
    assert same.patch_stride == usual.patch_stride and same.mask_unit_size == usual.mask_unit_size
    assert small.patch_stride == (1, 1) and small.patch_embed.proj.kernel_size == (1, 1)
    assert ADAPTER.shape(small).patch_size == (4, 4) and ADAPTER.shape(small).num_patches == 64


def test_another_size_interpolates_positions():
    encoder, images = tiny("hiera_tiny_224", **THREE).eval(), some_images(1)
    before = encoder.pos_embed
    ADAPTER.resize(encoder, (48, 32))
    assert ADAPTER.shape(encoder).grid_size == (6, 4)
    moved = images.transpose(2, 3)
    found = forward_visible(encoder, *visible(encoder, moved, torch.arange(UNITS)[None]))[-1]
    torch.testing.assert_close(found, encoder.forward_features(moved), **EXACT)
    assert before is not None and encoder.pos_embed is not None
    expected = resample_abs_pos_embed(before, [24, 16], [16, 24], 0)
    torch.testing.assert_close(encoder.pos_embed, expected, rtol=0, atol=1e-6)


def test_masks_hide_whole_units():
    """2 x 2 patches of a unit are hidden together, in all the ways that masks are drawn."""
    model = MaskedAutoencoder(
        tiny("hiera_tiny_224", **THREE, q_pool=1),
        mask_ratio=0.6,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    assert model.patch_size == (4, 4) and model.units.shape == (24, 4)
    images, seeds = some_images(), torch.arange(3)
    splits = [model.draw(images, seeds), *model.covering_noises(images, seeds)]
    for pattern in ("random", "block", "grid"):
        (chosen,) = choose_masks(pattern, [], model)
        splits.append(chosen.draw(images, seeds))
    for split in splits:
        hidden = binary_mask(split).view(3, 4, 2, 6, 2)
        assert 0 < hidden.mean() < 1
        assert torch.equal(hidden.amax((2, 4)), hidden.amin((2, 4)))
    everything = torch.cat([one.ids_masked for one in splits[1:3]], dim=1)
    assert torch.equal(everything.sort(dim=1).values, torch.arange(96).expand(3, -1))
