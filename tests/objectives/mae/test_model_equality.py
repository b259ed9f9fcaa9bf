"""Equality with independent implementations: transformers' ViTMAE and timm's forward."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae.networks.encoders.plain import position_embedding
from mae.networks.initial_weights import sincos_positions
from mae.networks.patches import patchify
from mae.networks.vit import build_encoder, forward_visible
from mae.objectives.base import total_loss
from mae.objectives.mae.decoder import Decoder
from mae.objectives.mae.masking import PatchSplit, random_masking
from mae.objectives.mae.model import MaskedAutoencoder
from tests.objectives.losses import START, loss_of

WIDTH, DEPTH, HEADS = 32, 3, 4
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 16, 2, 2


def transformers_model(norm_pix_loss: bool) -> ViTMAEForPreTraining:
    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=32,
        patch_size=8,
        num_channels=3,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=4 * DECODER_WIDTH,
        layer_norm_eps=1e-6,
        mask_ratio=0.75,
        norm_pix_loss=norm_pix_loss,
        hidden_act="gelu",
    )
    model = ViTMAEForPreTraining(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # every parameter matters, biases and norms included
        for name, parameter in model.named_parameters():
            if "pos" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def our_model(norm_pix_loss: bool) -> MaskedAutoencoder:
    encoder = build_encoder(
        "vit_tiny_patch16_224",
        img_size=(32, 32),
        patch_size=8,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
    )
    return MaskedAutoencoder(
        encoder,
        norm_pix_loss=norm_pix_loss,
        decoder_embed_dim=DECODER_WIDTH,
        decoder_depth=DECODER_DEPTH,
        decoder_num_heads=DECODER_HEADS,
    )


def to_our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of the transformers model under our names."""
    ours = {
        "encoder.cls_token": tensors["vit.embeddings.cls_token"],
        "decoder.mask_token": tensors["decoder.mask_token"],
    }
    linear_like = {
        "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "encoder.norm": "vit.layernorm",
        "decoder.embed": "decoder.decoder_embed",
        "decoder.norm": "decoder.decoder_norm",
        "decoder.pred": "decoder.decoder_pred",
    }
    stacks = [
        ("encoder.blocks", "vit.layers", DEPTH),
        ("decoder.blocks", "decoder.decoder_layers", DECODER_DEPTH),
    ]
    for block, layer, depth in stacks:
        for i in range(depth):
            attention = f"{layer}.{i}.attention"
            for kind in ("weight", "bias"):
                qkv = [tensors[f"{attention}.{name}_proj.{kind}"] for name in "qkv"]
                ours[f"{block}.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
            linear_like |= {
                f"{block}.{i}.norm1": f"{layer}.{i}.layernorm_before",
                f"{block}.{i}.norm2": f"{layer}.{i}.layernorm_after",
                f"{block}.{i}.attn.proj": f"{attention}.o_proj",
                f"{block}.{i}.mlp.fc1": f"{layer}.{i}.mlp.fc1",
                f"{block}.{i}.mlp.fc2": f"{layer}.{i}.mlp.fc2",
            }
    for our_name, their_name in linear_like.items():
        for kind in ("weight", "bias"):
            ours[f"{our_name}.{kind}"] = tensors[f"{their_name}.{kind}"]
    return ours


def noise_for(split: PatchSplit) -> Tensor:
    """Noise whose argsort is our permutation: the form in which transformers takes a mask."""
    shuffle = torch.cat([split.ids_keep, split.ids_masked], dim=1)
    ranks = torch.arange(shuffle.shape[1], dtype=torch.float64).expand_as(shuffle)
    return torch.zeros_like(ranks).scatter(1, shuffle, ranks)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_gradients_equal_those_of_transformers(norm_pix_loss, dtype, tolerance):
    theirs = transformers_model(norm_pix_loss)
    ours = our_model(norm_pix_loss)
    with torch.no_grad():
        # A fresh model of transformers has zeros here; real checkpoints bring their positions.
        theirs.vit.embeddings.position_embeddings.copy_(position_embedding(ours.encoder))
        theirs.decoder.decoder_pos_embed[:, 1:] = ours.decoder.pos_embed
        loaded = ours.load_state_dict(to_our_names(dict(theirs.state_dict())), strict=False)
    assert set(loaded.missing_keys) == {"encoder.pos_embed", "decoder.pos_embed"}
    assert not loaded.unexpected_keys
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    images = torch.randn(5, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(2))
    split = ours.draw(images, torch.arange(5) * 7919)

    their_output = theirs(pixel_values=images, noise=noise_for(split))
    their_output.loss.backward()
    our_output = ours(images, split, START)
    total_loss(our_output).backward()

    torch.testing.assert_close(
        total_loss(our_output), their_output.loss, rtol=tolerance, atol=tolerance
    )
    their_gradients = to_our_names(
        {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    )
    our_gradients = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(
            gradient, their_gradients[name], rtol=tolerance, atol=tolerance, msg=name
        )


def test_positions_equal_the_formula():
    """Vaswani et al. 2017, section 3.5, per axis; columns first, as in the released weights."""
    dim, rows, columns = 16, 3, 5
    positions = sincos_positions(dim, (rows, columns), num_prefix_tokens=2)[0]
    assert not positions[:2].any()
    for row in range(rows):
        for column in range(columns):
            expected = [
                wave(place / 10000 ** (i / (dim // 4)))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for i in range(dim // 4)
            ]
            found = positions[2 + row * columns + column]
            torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4, "no_embed_class": True}),
        ("vit_tiny_patch16_224", {"pre_norm": True}),
        ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.1}),
        ("vit_tiny_patch16_224", {"in_chans": 5}),
    ],
)
def test_with_nothing_masked_the_encoder_is_timms(name, arguments):
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": (16, 24), "patch_size": 8}
    encoder = build_encoder(name, **(sizes | arguments)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, arguments.get("in_chans", 3), 16, 24)
    patches = patchify(images, (8, 8))
    everything = torch.arange(6).expand(3, -1)
    ours = forward_visible(encoder, patches, everything)[-1]
    torch.testing.assert_close(ours, encoder.forward_features(images), rtol=1e-5, atol=1e-5)


def textbook_loss(model: MaskedAutoencoder, images: Tensor, split: PatchSplit) -> Tensor:
    """Loss by the paper's formulation: embed all, drop, un-shuffle, decode all, masked error."""
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, VisionTransformer)
    assert encoder.pos_embed is not None
    prefix = encoder.num_prefix_tokens
    x = encoder.patch_embed(images) + encoder.pos_embed[:, prefix:]
    b, n, _ = x.shape
    visible = torch.stack([x[i, split.ids_keep[i]] for i in range(b)])
    assert encoder.cls_token is not None
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(b, -1, -1)
    latent = encoder.norm(encoder.blocks(torch.cat([cls, visible], dim=1)))

    assert isinstance(decoder, Decoder)
    y = decoder.embed(latent)
    tokens = decoder.mask_token.expand(b, n, -1).clone()
    for i in range(b):
        tokens[i, split.ids_keep[i]] = y[i, prefix:]
    y = torch.cat([y[:, :prefix], tokens + decoder.pos_embed], dim=1)
    for block in decoder.blocks:
        y = block(y)
    prediction = decoder.pred(decoder.norm(y))[:, prefix:]

    target = patchify(images, model.patch_size)
    if model.norm_pix_loss:
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (var + 1e-6) ** 0.5
    mask = torch.ones(b, n, dtype=images.dtype)
    for i in range(b):
        mask[i, split.ids_keep[i]] = 0
    return (((prediction - target) ** 2).mean(-1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_shuffled_masked_only_computation_equals_the_textbook(norm_pix_loss):
    """Our shortcuts: projection of visible patches only, no un-shuffle, queries of hidden only."""
    model = our_model(norm_pix_loss).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    split = random_masking(torch.arange(4), 16, 0.75)
    expected = torch.autograd.grad(
        textbook_loss(model, images, split),
        [p for p in model.parameters() if p.requires_grad],
    )
    loss = loss_of(model, images, split)
    torch.testing.assert_close(loss, textbook_loss(model, images, split), rtol=0, atol=1e-12)
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
