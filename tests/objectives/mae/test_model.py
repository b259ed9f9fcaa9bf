import math
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.cost import cost_of
from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.networks.patches import patchify
from mae.networks.vit import build_encoder
from mae.objectives.base import total_loss
from mae.objectives.mae.declaration import DECLARATION
from mae.objectives.mae.masking import PatchSplit, binary_mask
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from tests.objectives.losses import START, loss_of

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}


def small_mae(
    img_size=(16, 16), patch_size=4, in_chans=3, mean=None, std=None, **settings
) -> MaskedAutoencoder:
    encoder = build_encoder(
        "vit_tiny_patch16_224",
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_chans,
        **SMALL,
        **settings.pop("encoder", {}),
    )
    settings = DECODER | settings
    mean, std = mean or [0.5] * in_chans, std or [0.25] * in_chans
    return MaskedAutoencoder(encoder, mean=mean, std=std, **settings)


def some_images(b=4, c=3, h=16, w=16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (b, c, h, w), dtype=torch.uint8, generator=generator)


def test_uint8_images_are_normalised_per_channel():
    model = small_mae(mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    images = some_images()
    split = model.draw(images, torch.arange(4))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    normalised = (images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(loss_of(model, images, split), loss_of(model, normalised, split))
    torch.testing.assert_close(model.encode(images).tokens, model.encode(normalised).tokens)


def test_hidden_pixels_affect_the_loss_only():
    model = small_mae()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    hidden = model._to_images(binary_mask(split)[:, :, None].expand(-1, -1, 48)).bool()
    changed = torch.where(hidden, 255 - images, images)
    before, after = (
        model.forward_encoder(patchify(x, model.patch_size), split.ids_keep)
        for x in (images, changed)
    )
    assert all(map(torch.equal, before, after))
    assert not torch.equal(loss_of(model, images, split), loss_of(model, changed, split))


def test_visible_pixels_do_not_affect_the_target():
    model = small_mae()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    hidden = model._to_images(binary_mask(split)[:, :, None].expand(-1, -1, 48)).bool()
    changed = torch.where(hidden, images, 255 - images)
    first, second = (
        model.target(patchify(x, model.patch_size), split.ids_masked) for x in (images, changed)
    )
    assert torch.equal(first, second)


def test_the_encoder_gets_a_quarter_of_the_tokens():
    model = small_mae()
    lengths = []
    model.encoder.blocks[0].register_forward_hook(lambda m, i, o: lengths.append(o.shape[1]))
    images = some_images()
    loss_of(model, images, model.draw(images, torch.arange(4)))
    model.encode(images)
    assert lengths == [1 + 4, 1 + 16]


@pytest.mark.parametrize("training", [True, False])
def test_encode_never_masks_and_is_timms_forward_features(training):
    model = small_mae().train(training)
    images = some_images()
    features = model.encode(images)
    expected = model.encoder.forward_features(model.normalize_images(images))
    assert features.tokens is not None
    assert torch.equal(features.tokens, expected[:, 1:])
    assert torch.equal(features.pooled["cls"], expected[:, 0])
    assert torch.equal(features.pooled["mean"], expected[:, 1:].mean(1))


def test_predicting_patch_means_of_normalised_targets_has_loss_one():
    model = small_mae(in_chans=1, patch_size=8)
    images = some_images(b=64, c=1)
    split = model.draw(images, torch.arange(64))
    target = model.target(patchify(images, model.patch_size), split.ids_masked)
    n = target.shape[-1]
    assert target.square().mean().item() == pytest.approx((n - 1) / n, abs=1e-4)
    assert target.mean(-1).abs().max() < 1e-5


def test_statistics_are_the_moments_of_the_target():
    model = small_mae(norm_pix_loss=False)
    images = some_images()
    split = model.draw(images, torch.arange(4))
    target = model.target(patchify(images, model.patch_size), split.ids_masked)
    output = model(images, split, START)
    moments = target.mean(), target.square().mean()
    found = output.statistics["target_mean"], output.statistics["target_square"]
    torch.testing.assert_close(torch.stack(found), torch.stack(moments))
    means = {key: value.item() for key, value in output.statistics.items()}
    loss = total_loss(output).item()
    r2 = DECLARATION.figures({"reconstruction": loss}, means)["r2"]
    assert r2 == pytest.approx(1 - loss / target.var(unbiased=False).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("img_size", "patch_size", "in_chans"), [((8, 24), 4, 1), ((32, 16), 8, 7)]
)
def test_any_shape_and_channel_count_trains(img_size, patch_size, in_chans):
    model = small_mae(img_size, patch_size, in_chans)
    images = some_images(4, in_chans, *img_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    split = model.draw(images, torch.arange(4))
    losses = []
    for _ in range(30):
        loss = loss_of(model, images, split)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_every_trainable_parameter_gets_a_gradient():
    model = small_mae(encoder={"reg_tokens": 2})
    images = some_images()
    loss_of(model, images, model.draw(images, torch.arange(4))).backward()
    for name, parameter in model.named_parameters():
        fixed = name in ("encoder.pos_embed", "decoder.pos_embed")
        assert parameter.requires_grad is not fixed, name
        assert fixed or (parameter.grad is not None and parameter.grad.abs().sum() > 0), name


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    model = build_mae(load_config(None, ["model.encoder=vit_small_patch16_224"]))
    encoder: Any = model.encoder
    projection = encoder.patch_embed.proj.weight
    bounds = {"patches": (projection, 768, 384)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            bounds[name] = (module.weight, module.in_features, module.out_features)
            assert module.bias is None or not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6, name
            assert (module.weight == 1).all() and not module.bias.any(), name
    for name, (weight, fan_in, fan_out) in bounds.items():
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.97 * bound < weight.abs().max() <= bound, name
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    for token in (encoder.cls_token, model.decoder.mask_token):
        assert token is not None
        assert token.std().item() == pytest.approx(0.02, rel=0.15)


def test_sizes_are_the_papers():
    """Parameters of encoder and decoder, in millions (released checkpoints)."""
    with torch.device("meta"):
        for name, encoder_millions in [
            ("vit_base_patch16_224", 85.8),
            ("vit_large_patch16_224", 303.3),
            ("vit_huge_patch14_224", 630.8),
        ]:
            model = build_encoder(name)
            count = sum(p.numel() for p in model.parameters()) / 1e6
            assert count == pytest.approx(encoder_millions, abs=0.1)


def test_bf16_loss_is_close_to_fp32():
    model = small_mae()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    expected = loss_of(model, images, split)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, split, START)
    assert total_loss(output).dtype == torch.float32
    torch.testing.assert_close(total_loss(output), expected, rtol=2e-2, atol=0)


def test_reconstruction_pastes_visible_patches_exactly():
    model = small_mae()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    pasted, mask, _ = model.reconstruct(images, split)
    assert mask is not None
    visible = mask == 0
    torch.testing.assert_close(pasted[visible], (images / 255)[visible], rtol=0, atol=1e-6)
    assert mask.mean().item() == 0.75
    assert pasted.min() >= 0 and pasted.max() <= 1


def test_normalised_reconstructions_carry_each_patch_own_mean():
    """Predictions of zero become flat patches of the right brightness."""
    model = small_mae()
    with torch.no_grad():
        model.decoder.pred.weight.zero_()
    images = some_images()
    split = model.draw(images, torch.arange(4))
    pasted, mask, _ = model.reconstruct(images, split)
    assert mask is not None
    got = patchify(pasted, model.patch_size).mean(-1)
    expected = patchify(images / 255, model.patch_size).mean(-1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert mask.any()


@pytest.mark.parametrize("ratio", [0.0, 0.99])
def test_a_mask_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(UserError, match=r"model\.mask_ratio"):
        small_mae(mask_ratio=ratio)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("vit_bas_patch16_224", {}, "did you mean vit_base_patch16_224"),
        ("resnet50", {}, "is a ResNet, not timm's VisionTransformer or timm's Eva"),
        ("swin_tiny_patch4_window7_224", {}, "is a SwinTransformer"),
        (
            "vit_tiny_patch16_224",
            {"img_size": (30, 32), "patch_size": 8},
            "30 x 32 does not divide",
        ),
        ("vit_tiny_patch16_224", {"embed_dim": 30, "num_heads": 3}, "must divide by 4"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "timm cannot build"),
        ("vit_tiny_patch16_224", {"no_such": 5}, "timm cannot build"),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, "dynamic image size"),
    ],
)
def test_unsupported_encoders_are_refused_by_name(name, sizes, message):
    with pytest.raises(UserError, match=message):
        build_encoder(name, **sizes)


def test_forward_is_a_pure_function_of_its_arguments():
    model = small_mae()
    images = some_images()
    split = PatchSplit(*(ids.clone() for ids in model.draw(images, torch.arange(4))))
    first = model(images, split, START)
    torch.manual_seed(99)
    assert torch.equal(total_loss(first), loss_of(model, images, split))


def test_grad_checkpointing_gives_the_same_and_saves_memory():
    model, images = small_mae(), some_images()
    split = model.draw(images, torch.arange(4))

    def cost(enable: bool):
        model.set_grad_checkpointing(enable)
        return cost_of(lambda: loss_of(model, images, split), model)

    def gradients(enable: bool):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        loss_of(model, images, split).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(kept, again)
    assert cost(True).saved_bytes < cost(False).saved_bytes / 2


def test_loss_covers_all_patches_that_a_split_hides():
    """Also where a split hides more than the model's mask ratio."""
    model, images = small_mae(mask_ratio=0.5), some_images()
    shuffle = torch.stack([torch.randperm(16) for _ in range(4)])
    split = PatchSplit(shuffle[:, :2], shuffle[:, 2:])
    patches = model.patchify(images)
    errors = model.predict(patches, split) - model.target(patches, split.ids_masked)
    assert loss_of(model, images, split).item() == pytest.approx(errors.square().mean().item())
