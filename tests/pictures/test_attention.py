from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import ParallelScalingBlock

from mae.base.errors import UserError
from mae.networks.vit import build_encoder
from mae.objectives.mae.chosen_masks import grid_of
from mae.pictures.attention import attention_sheet, attention_weights, last_attention
from tests.objectives.mae.test_model import small_mae, some_images

ENCODERS = [
    {},
    {"class_token": False},
    {"reg_tokens": 3},
    {"qk_norm": True},
]


def plain_weights(model, images) -> np.ndarray:
    """softmax(Q Kᵀ / √d) in NumPy, from the recorded outputs of the block's own layers."""
    attention = model.encoder.blocks[-1].attn
    seen = {}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output.detach())
        )
        for name in ("qkv", "q_norm", "k_norm")
    ]
    model.encode(images)
    for hook in hooks:
        hook.remove()
    b, n, width = seen["qkv"].shape
    d = width // 3 // 2
    q, k = seen["q_norm"].double().numpy(), seen["k_norm"].double().numpy()
    assert q.shape == (b, 2, n, d)
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(d)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("encoder", ENCODERS, ids=str)
def test_attention_equals_the_last_block(encoder):
    model = small_mae(encoder=encoder).eval()
    with torch.no_grad():  # else attention is all but even
        for name, weight in model.encoder.named_parameters():
            if name.endswith("qkv.weight"):
                weight.normal_(std=0.5)
    images = some_images()
    found = attention_weights(model.encoder, model.encode, images)
    np.testing.assert_allclose(found.numpy(), plain_weights(model, images), atol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
    assert found.std() > 0.01

    attention = last_attention(model.encoder, model.encode, images)
    prefix = model.encoder.num_prefix_tokens
    assert attention.heads.shape == (4, 2, 16)
    if model.encoder.has_class_token:
        assert attention.query == "the class token"
        torch.testing.assert_close(attention.heads, found[:, :, 0, prefix:])
    else:
        assert attention.query == "the mean patch"
        torch.testing.assert_close(attention.heads, found.mean(2))


def test_model_is_unchanged():
    model = small_mae().eval()
    images = some_images()
    before = model.encode(images).tokens
    last_attention(model.encoder, model.encode, images)
    after = model.encode(images).tokens
    assert before is not None and after is not None and torch.equal(after, before)
    assert not any(module._forward_pre_hooks for module in model.encoder.modules())


def test_other_attention_is_refused():
    model = small_mae(encoder={"block_fn": ParallelScalingBlock}).eval()
    with pytest.raises(UserError, match="the last block has not one attention"):
        last_attention(model.encoder, model.encode, some_images())


def test_sheet_shows_shares_and_brightens_attended_patches():
    model = small_mae(img_size=(8, 16)).eval()
    images = torch.full((2, 3, 8, 16), 200, dtype=torch.uint8)
    attention = last_attention(model.encoder, model.encode, images)
    heads = torch.zeros_like(attention.heads)
    heads[0, 0, 3] = 0.8
    heads[0, 1, 3] = 0.4
    heads[1] = 1 / 16
    sheet = attention_sheet(images, ["a", "b"], attention._replace(heads=heads), grid_of(model), "")
    assert sheet.heads == ["original", "lit", "mean", "head 1", "head 2"]
    assert [cell.caption for cell in sheet.rows[0]] == ["a", "", "60%", "80%", "40%"]
    lit = np.asarray(sheet.rows[0][1].picture)[..., 0]
    assert (lit[:4, 12:] == 200).all() and (lit[4:] == 50).all()
    shown = np.asarray(sheet.rows[0][3].picture)[..., :3].astype(int).sum(-1)
    assert shown[:4, 12:].min() > shown[4:].max()


def test_of_a_hierarchical_network_patches_are_by_rows():
    """With 2 x 2 tokens a unit timm's tokens are by units; its maps say where each belongs."""
    sizes = {"embed_dim": 8, "num_heads": 1, "stages": [1, 2, 2], "q_pool": 1}
    vit: Any = build_encoder("hiera_tiny_224", img_size=(32, 48), patch_size=4, **sizes).eval()
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    seen = {}
    with torch.no_grad():
        hook = vit.blocks[-1].attn.qkv.register_forward_hook(
            lambda module, inputs, output: seen.update(qkv=output)
        )
        tokens = vit.forward_features(images)[0]
        hook.remove()
        last = {"indices": [len(vit.blocks) - 1], "coarse": False}
        (by_rows,) = vit.forward_intermediates(images, intermediates_only=True, **last)
        found = attention_weights(vit, vit.forward_features, images)
    order = torch.cdist(by_rows[0].flatten(1).T, tokens).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(96)) and order.tolist() != list(range(96))
    q, k, _ = seen["qkv"].reshape(96, 3, 4, -1).permute(1, 2, 0, 3)[:, :, order]
    expected = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    torch.testing.assert_close(found[0], expected)
