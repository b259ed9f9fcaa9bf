"""Released names, every tensor accounted for; timm's own conversion is the reference."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor

from mae.base.errors import UserError
from mae.networks.encoders.rope import RopeAdapter
from mae.networks.encoders.rope_names import to_timm_names
from mae.networks.vit import build_encoder
from tests.networks.encoders.option_sets import tiny_arguments
from tests.pretrained_weights.models import shaken

Tensors = dict[str, Tensor]


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    found = {}
    for key, tensor in tensors.items():
        for pattern, replacement in pairs:
            key = re.sub(pattern, replacement, key)
        found[key] = tensor
    return found


def dinov3(own: Tensors) -> Tensors:
    """github.com/facebookresearch/dinov3."""
    found = renamed(
        own,
        (r"reg_token", "storage_tokens"),
        (r"gamma_([12])$", r"ls\1.gamma"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"mlp\.fc2", "mlp.w3" if "blocks.0.mlp.fc1_g.weight" in own else "mlp.fc2"),
    )
    for block in range(2):
        start = f"blocks.{block}.attn."
        q, v = found.pop(f"{start}q_bias", None), found.pop(f"{start}v_bias", None)
        q, v = (torch.zeros(32) if one is None else one for one in (q, v))
        found[f"{start}qkv.bias"] = torch.cat([q, torch.full_like(q, torch.nan), v])
        found[f"{start}qkv.bias_mask"] = torch.ones(96)
    periods = (100 ** (torch.arange(4) / 4)).bfloat16()
    extra = {"mask_token": torch.ones(1, 32), "rope_embed.periods": periods}
    return found | extra | {"local_cls_norm.weight": torch.ones(32)}


def eva02(own: Tensors) -> Tensors:
    """github.com/baaivision/EVA, pretrained by masked image modelling."""
    found = renamed(
        own,
        (r"mlp\.norm\.", "mlp.ffn_ln."),
        (r"mlp\.fc1_g\.", "mlp.w1."),
        (r"mlp\.fc1_x\.", "mlp.w2."),
        (r"mlp\.fc2\.", "mlp.w3."),
        (r"attn\.([qv])_proj\.bias", r"attn.\1_bias"),
        (r"attn\.norm\.", "attn.inner_attn_ln."),
    )
    table = torch.ones(16, 16)
    return found | {
        "rope.freqs_cos": table,
        "blocks.0.attn.rope.freqs_sin": table,
    }


def eva_clip(own: Tensors) -> Tensors:
    """EVA-CLIP: an image and a text encoder."""
    towers = {f"visual.{key}": tensor for key, tensor in eva02(own).items()}
    return towers | {"text.positional_embedding": torch.ones(2), "logit_scale": torch.ones(())}


def perception(own: Tensors) -> Tensors:
    """Perception Encoder."""
    found = renamed(
        own,
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.gamma_([12])$", r".ls_\1.gamma"),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj\.", "attn.out_proj."),
        (r"mlp\.fc1\.", "mlp.c_fc."),
        (r"mlp\.fc2\.", "mlp.c_proj."),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^blocks\.", "transformer.resblocks."),
    )
    found["class_embedding"] = found.pop("cls_token")[0, 0]
    found["positional_embedding"] = found.pop("pos_embed")[0]
    head = {"attn_pool.probe": torch.ones(1, 1, 32), "proj": torch.ones(32, 8)}
    found = {f"visual.{key}": tensor for key, tensor in (found | head).items()}
    return found | {"token_embedding.weight": torch.ones(2, 2)}


def sapiens2(own: Tensors) -> Tensors:
    """Sapiens2."""
    found = renamed(
        own,
        (r"reg_token", "storage_tokens"),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"attn\.([qkv])_proj\.", r"attn.w\1."),
        (r"gamma_1$", "attn.gamma.weight"),
        (r"^norm\.", "ln1."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"\.mlp\.fc1\.", ".ffn.w12."),
        (r"\.mlp\.fc2\.", ".ffn.w3."),
    )
    return found | {"mask_token": torch.ones(1, 32)}


LAYOUTS: list[tuple[str, Callable[[Tensors], Tensors], int]] = [
    ("vit_small_patch16_dinov3_qkvb", dinov3, 7),
    ("vit_small_patch16_dinov3", dinov3, 7),
    ("vit_small_plus_patch16_dinov3_qkvb", dinov3, 7),
    ("eva02_base_patch14_224", eva02, 2),
    ("eva02_small_patch14_224", eva02, 2),
    ("eva02_base_patch16_clip_224", eva_clip, 4),
    ("vit_pe_core_tiny_patch16_384", perception, 3),
    ("vit_pe_lang_large_patch14_448", perception, 3),
    ("vit_base_patch16_sapiens2", sapiens2, 1),
]


def encoder_of(name: str) -> Eva:
    sizes: dict[str, Any] = {"img_size": (16, 16), "patch_size": 4, **tiny_arguments(name)}
    encoder = shaken(build_encoder(name, **sizes), 1)
    assert isinstance(encoder, Eva)
    return encoder


@pytest.mark.parametrize(("name", "layout", "unused"), LAYOUTS)
def test_every_tensor_is_loaded_or_skipped_for_a_reason(name, layout, unused):
    encoder = encoder_of(name)
    own = encoder.state_dict()
    source = layout(own)
    found, skipped = to_timm_names(source, own.keys())
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], own[key]) for key in own)
    assert len(skipped) == unused and all(skipped.values())
    assert {key.removesuffix(" (keys)") for key in skipped} <= source.keys()
    theirs = checkpoint_filter_fn({**source}, encoder)
    heads = ("attn_pool.", "head.", "logit", "text")
    theirs = {key: one for key, one in theirs.items() if not key.startswith(heads)}
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[key], found[key]) for key in own)


def test_biases_that_a_model_lacks_are_not_dropped_unless_they_are_zero():
    own = encoder_of("vit_small_patch16_dinov3").state_dict()
    source = dinov3(own)
    source["blocks.1.attn.qkv.bias"] = torch.ones(96)
    found, _ = to_timm_names(source, own.keys())
    assert found.keys() - own.keys() == {"blocks.1.attn.qkv.bias"}


def test_biases_of_keys_are_dropped_only_where_they_are_zero():
    own = encoder_of("vit_small_patch16_dinov3_qkvb").state_dict()
    bias = "blocks.1.attn.qkv.bias"
    for keys, is_dropped in ((0.0, True), (1.0, False)):
        source = {key: one for key, one in own.items() if not key.startswith("blocks.1.attn.")}
        source[bias] = torch.cat([torch.ones(32), torch.full((32,), keys), torch.ones(32)])
        found, skipped = to_timm_names(source, own.keys())
        assert (bias in found) != is_dropped and (f"{bias} (keys)" in skipped) == is_dropped


def test_unknown_names_stay():
    own = encoder_of("vit_small_patch16_dinov3").state_dict()
    found, skipped = to_timm_names({**own, "blocks.0.odd": torch.ones(1)}, own.keys())
    assert found.keys() - own.keys() == {"blocks.0.odd"} and not skipped


def test_two_tensors_of_one_name_are_refused():
    own = encoder_of("vit_base_patch16_sapiens2").state_dict()
    with pytest.raises(UserError, match=r"ln1\.weight and another tensor are both norm\.weight"):
        to_timm_names({**own, "ln1.weight": torch.ones(32)}, own.keys())
    own = encoder_of("vit_small_patch16_dinov3").state_dict()
    source = {**own, "blocks.0.attn.wq.weight": torch.ones(32, 32)}
    found, _ = to_timm_names(source, own.keys())
    assert found.keys() - own.keys() == {"blocks.0.attn.q_proj.weight"}, "refused as unknown"


@pytest.mark.parametrize("key", ["rope_embed.periods", "rope_embeddings.inv_freq"])
def test_periods_of_other_rotations_are_refused(key):
    """They are the only evidence of the rotations in a file of weights."""
    encoder = encoder_of("vit_small_patch16_dinov3")
    own, name = encoder.state_dict(), f"model.{key}"
    for base, is_known in ((100, True), (10_000, False)):
        periods = (base ** (torch.arange(4) / 4)).bfloat16()
        stored = periods.reciprocal() if key.endswith("inv_freq") else periods
        if is_known:
            _, skipped = RopeAdapter().released_names(encoder, {**own, name: stored})
            assert skipped == {name: "follows from the sizes"}
            continue
        with pytest.raises(UserError, match="periods of rotary positions from 1 to 10"):
            RopeAdapter().released_names(encoder, {**own, name: stored})
    with pytest.raises(UserError, match=r"from 1 to 1, those of model\.encoder from 1 to 31\.6"):
        RopeAdapter().released_names(encoder, {**own, name: torch.ones(7)})
