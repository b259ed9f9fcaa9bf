"""Sizes of encoders by their settings."""

from typing import Any

import pytest
import timm
import torch

from mae.networks.vit_sizes import PUBLISHED, vit_size


@pytest.mark.parametrize("word", ["tiny", "small", "base"])
def test_published_sizes_are_those_of_timm(word):
    vit: Any = timm.create_model(PUBLISHED[word].name, num_classes=0)
    heads = vit.blocks[0].attn.num_heads
    assert (vit.embed_dim, len(vit.blocks), heads) == PUBLISHED[word][1:]


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("vit_small_patch16_dinov3", {}, ("small", 384, 12)),
        ("eva02_enormous", {}, ("base", 768, 12)),
        ("hiera_tiny_224", {"embed_dim": 38, "stages": [1, 1, 4]}, ("tiny", 152, 6)),
        ("vit_tiny_patch16_224", {"embed_dim": 96, "depth": 4}, ("tiny", 96, 4)),
        ("vit_huge_patch14_224", {"depth": 8, "embed_dim": "wide"}, ("huge", 1280, 8)),
    ],
)
def test_arguments_come_before_the_name(name, kwargs, size):
    assert vit_size(name, kwargs) == size


@pytest.mark.parametrize("name", [*timm.list_models("hiera_*_224"), "hiera_small_abswin_256"])
def test_hieras_have_their_last_width_and_all_blocks(name):
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    assert vit_size(name, {})[1:] == (model.num_features, len(model.blocks))
