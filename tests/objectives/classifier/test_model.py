"""Classifier: drop path, optimizer groups, head, mixing, loss and features."""

import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae.config.sections import OptimConfig
from mae.networks.encoders.registry import adapter_of
from mae.networks.vit import build_encoder
from mae.objectives.base import total_loss
from mae.objectives.classifier.declaration import DECLARATION, FinetuneConfig
from mae.objectives.classifier.implementation import IMPLEMENTATION
from mae.objectives.classifier.model import HEAD_STD, Classifier
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.registry import config_type
from mae.training.optim import build_optimizer, set_lr
from tests.objectives.losses import START

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
PLAIN = {"mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0, "drop_path": 0.0}


def make_vit(depth=3, classes=4, drop_path=0.0, pool="avg", **kwargs) -> VisionTransformer:
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": depth, "num_heads": 2},
        **{"num_classes": classes, "drop_path_rate": drop_path, "global_pool": pool},
        **kwargs,
    )
    assert isinstance(vit, VisionTransformer)
    return vit


def make(depth=3, classes=4, pool="avg", **settings) -> Classifier:
    torch.manual_seed(0)
    values = {**PLAIN, **settings, "num_classes": classes, "global_pool": pool}
    use = FinetuneConfig.model_validate(values)
    vit = make_vit(depth, classes, use.drop_path, pool)
    return Classifier(vit, use, mean=MEAN, std=STD)


def head_of(model: Classifier) -> nn.Linear:
    assert isinstance(model.encoder.head, nn.Linear)
    return model.encoder.head


def images_of(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def draw(model: Classifier, images: torch.Tensor, labels: torch.Tensor):
    return model.draw(images, torch.zeros(len(images), dtype=torch.int64), labels)


# Drop path


@pytest.mark.parametrize(("depth", "rate"), [(2, 0.1), (4, 0.3), (12, 0.2)])
def test_drop_path_rises_linearly_from_nothing_to_the_rate(depth, rate):
    model = make(depth, drop_path=rate)
    for index, block in enumerate(model.encoder.blocks):
        for part in (block.drop_path1, block.drop_path2):
            built = part.drop_prob if isinstance(part, DropPath) else 0.0
            assert built == pytest.approx(rate * index / (depth - 1), abs=1e-6)


def test_drop_path_applies_in_training_only():
    model, images = make(drop_path=0.5), images_of(16)
    nn.init.normal_(head_of(model).weight)
    model.train()
    seed(1)
    first, second = model.logits(images), model.logits(images)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model.logits(images), model.logits(images))


def test_share_of_samples_that_skip_a_block_is_its_rate():
    """Within four standard deviations over 4,000 draws; kept samples are scaled up."""
    drop_path = make(drop_path=0.3).encoder.blocks[-1].drop_path1
    assert isinstance(drop_path, nn.Module)
    found = drop_path.train()(torch.ones(4000, 1, 16))[:, 0, 0]
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)


# The optimizer


def groups_of(model: Classifier, layer_decay: float) -> dict[str, tuple[float, float]]:
    """Name → (learning rate, weight decay) from the optimizer's groups."""
    values = {"objective": "classifier", "finetune": {"layer_decay": layer_decay}}
    config = config_type("classifier").model_validate(values)
    optimizer = build_optimizer(IMPLEMENTATION.parameter_groups(model, config), OptimConfig())
    set_lr(optimizer, 1.0)
    names = {id(parameter): name for name, parameter in model.encoder.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    return found


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_layer_decay_by_hand(pool):
    """Shares for 3 blocks, decay 0.5: stem at layer 0, block i at i + 1, norm and head on top."""
    norm = "fc_norm" if pool == "avg" else "norm"
    expected = {"cls_token": 1 / 16, "pos_embed": 1 / 16, "patch_embed.proj.weight": 1 / 16}
    expected |= {f"blocks.{i}.attn.qkv.weight": 2.0 ** (i - 3) for i in range(3)}
    expected |= {f"blocks.{i}.norm1.bias": 2.0 ** (i - 3) for i in range(3)}
    expected |= {f"{norm}.weight": 1.0, f"{norm}.bias": 1.0, "head.weight": 1.0, "head.bias": 1.0}
    found = groups_of(make(pool=pool), 0.5)
    assert {name: found[name][0] for name in expected} == expected
    assert found.keys() == {name for name, _ in make(pool=pool).encoder.named_parameters()}


def test_registers_and_first_norms_belong_to_the_stem():
    vit = make_vit(depth=2, reg_tokens=2, pre_norm=True)
    layers = {name: adapter_of(vit).layer_of(vit, name) for name, _ in vit.named_parameters()}
    assert layers["reg_token"] == layers["norm_pre.weight"] == layers["pos_embed"] == 0
    assert {layer for name, layer in layers.items() if name.startswith("blocks.1.")} == {2}
    assert layers["fc_norm.weight"] == layers["head.weight"] == 3


@pytest.mark.parametrize("layer_decay", [0.65, 1.0])
def test_biases_norms_and_tokens_are_not_decayed(layer_decay):
    found = groups_of(make(), layer_decay)
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert {decay for _, decay in found.values()} == {0.0, 0.05}
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    matrices = {f"blocks.{i}.{part}.weight" for i in range(3) for part in parts}
    assert decayed == matrices | {"patch_embed.proj.weight", "head.weight"}


# The head


def test_initial_logits_are_near_zero():
    model = make(classes=200)
    weight, bias = head_of(model).weight, head_of(model).bias
    assert weight.std().item() == pytest.approx(HEAD_STD, rel=0.1) and not bias.any()
    probabilities = model.eval().logits(images_of(4)).softmax(1)
    torch.testing.assert_close(
        probabilities, torch.full_like(probabilities, 1 / 200), rtol=0.01, atol=0
    )


# Mixing


def test_targets_of_unmixed_images_are_smoothed_by_the_formula():
    model = make(label_smoothing=0.1)
    labels = torch.tensor([2, 0])
    targets = draw(model, images_of(2), labels).targets
    on, off = 1 - 0.1 + 0.1 / 4, 0.1 / 4
    torch.testing.assert_close(targets, torch.tensor([[off, off, on, off], [on, off, off, off]]))
    logits = torch.randn(2, 4)
    torch.testing.assert_close(
        F.cross_entropy(logits, targets), F.cross_entropy(logits, labels, label_smoothing=0.1)
    )


def test_without_mixing_images_are_only_normalised():
    model, images = make(label_smoothing=0.0), images_of(3)
    mixed = draw(model, images, torch.tensor([0, 1, 2]))
    shape = (1, 3, 1, 1)
    expected = (images / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    torch.testing.assert_close(mixed.images, expected)
    assert torch.equal(mixed.targets, torch.eye(4)[:3])


def share_of_own(targets: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    """Mixing ratio of each image, from the targets of pairs of different classes."""
    on = targets[torch.arange(len(labels)), labels]
    lams = (on - smoothing / targets.shape[1]) / (1 - smoothing)
    assert lams.max() - lams.min() < 1e-5, "one for the batch"
    return lams[0].item()


@pytest.mark.parametrize("number", range(4))
def test_mixup_blends_images_by_its_targets(number):
    model, images = make(mixup=0.8), images_of(4)
    labels = torch.tensor([0, 1, 2, 3])
    seed(number)
    mixed = draw(model, images, labels)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
    lam = share_of_own(mixed.targets, labels, 0.1)
    assert 0 < lam < 1
    clean = model.normalize_images(images)
    expected = lam * clean + (1 - lam) * clean.flip(0)
    torch.testing.assert_close(mixed.images, expected, atol=1e-5, rtol=1e-5)
    other = mixed.targets[torch.arange(4), labels.flip(0)]
    torch.testing.assert_close(other, torch.full((4,), (1 - lam) * 0.9 + 0.1 / 4))


@pytest.mark.parametrize("number", range(4))
def test_cutmix_pastes_a_box_of_the_share_in_its_targets(number):
    model, images = make(cutmix=1.0), images_of(4)
    labels = torch.tensor([0, 1, 2, 3])
    seed(number)
    mixed = draw(model, images, labels)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(4))
    clean = model.normalize_images(images)
    own = (mixed.images == clean).all(dim=1)
    pasted = (mixed.images == clean.flip(0)).all(dim=1)
    assert (own | pasted).all() and torch.equal(own[0], own[1])
    lam = share_of_own(mixed.targets, labels, 0.1)
    assert own[0].float().mean().item() == pytest.approx(lam, abs=1e-5)
    rows, columns = torch.nonzero(~own[0], as_tuple=True)
    height, width = (int(one.max() - one.min()) + 1 if len(one) else 0 for one in (rows, columns))
    assert height * width == int((~own[0]).sum()), "one box"


def test_each_batch_gets_mixup_or_cutmix_and_both_occur():
    model, images = make(mixup=0.8, cutmix=1.0), images_of(2)
    clean, ways = model.normalize_images(images), []
    for number in range(40):
        seed(number)
        mixed = draw(model, images, torch.tensor([0, 1])).images
        ways.append(bool(((mixed == clean) | (mixed == clean.flip(0))).all()))
    assert 8 < sum(ways) < 32


def test_random_erasing_has_its_probability():
    model, images = make(random_erasing=0.25), images_of(1).expand(2000, -1, -1, -1)
    seed(0)
    clean = model.normalize_images(images)
    found = draw(model, images, torch.zeros(2000, dtype=torch.int64)).images
    erased = (found != clean).any(dim=1)
    assert erased.flatten(1).any(1).float().mean().item() == pytest.approx(0.25, abs=0.04)
    shares = erased.flatten(1).float().mean(1)
    shares = shares[shares > 0]
    assert shares.min() > 0 and shares.max() < 0.45  # of 2 to 33 %, in whole pixels
    noise = found[erased.unsqueeze(1).expand_as(found)]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def test_draw_does_not_change_its_input():
    model, images = make(mixup=0.8, cutmix=1.0, random_erasing=0.9), images_of(8)
    before = images.clone()
    floats = model.normalize_images(images)
    kept = floats.clone()
    draw(model, images, torch.arange(8) % 4)
    draw(model, floats, torch.arange(8) % 4)
    assert torch.equal(images, before) and torch.equal(floats, kept)


# Loss, features


def test_the_loss_is_cross_entropy_with_the_mixed_targets():
    model, images = make(mixup=0.8).eval(), images_of(4)
    nn.init.normal_(head_of(model).weight)
    mixed = draw(model, images, torch.tensor([0, 1, 2, 3]))
    output = model(images, mixed, START)
    logits = model.encoder(mixed.images)
    by_hand = -(mixed.targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(total_loss(output), by_hand)
    means = {key: value.item() for key, value in output.statistics.items()}
    figures = DECLARATION.figures({"cross_entropy": total_loss(output).item()}, means)
    right = (logits.argmax(1) == mixed.targets.argmax(1)).float().mean().item()
    assert figures["accuracy"] == pytest.approx(right)
    assert figures["confidence"] == pytest.approx(logits.softmax(1).amax(1).mean().item())


def pretrained_pair(pool: str) -> tuple[MaskedAutoencoder, Classifier]:
    """Masked autoencoder, and a classifier with its encoder's weights."""
    torch.manual_seed(3)
    sizes = {"img_size": (16, 16), "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    encoder = build_encoder("vit_tiny_patch16_224", **sizes)
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    autoencoder = MaskedAutoencoder(encoder, **decoder, mean=MEAN, std=STD)
    assert isinstance(encoder.norm, nn.LayerNorm)
    nn.init.uniform_(encoder.norm.weight, 0.5, 2)
    nn.init.normal_(encoder.norm.bias)
    classifier = make(pool=pool)
    missing, unexpected = classifier.encoder.load_state_dict(encoder.state_dict(), strict=False)
    own = {"avg": {"fc_norm.weight", "fc_norm.bias"}, "token": set()}[pool]
    assert {*missing} == own | {"head.weight", "head.bias"}
    assert {*unexpected} == ({"norm.weight", "norm.bias"} if pool == "avg" else set())
    return autoencoder.eval(), classifier.eval()


def test_encode_equals_that_of_the_autoencoder():
    autoencoder, classifier = pretrained_pair("token")
    images = images_of(3)
    expected, found = autoencoder.encode(images), classifier.encode(images)
    torch.testing.assert_close(found.tokens, expected.tokens)
    for name in ("mean", "cls"):
        torch.testing.assert_close(found.pooled[name], expected.pooled[name])


def test_pooling_averages_before_the_norm():
    """Global pooling applies the norm after the mean, so tokens are not normalised."""
    autoencoder, classifier = pretrained_pair("avg")
    images = images_of(3)
    norm = autoencoder.encoder.norm
    assert isinstance(norm, nn.LayerNorm)
    found = classifier.encode(images)
    assert found.tokens is not None
    torch.testing.assert_close(norm(found.tokens), autoencoder.encode(images).tokens)
    vit: Any = classifier.encoder
    torch.testing.assert_close(
        vit.head(vit.fc_norm(found.tokens.mean(1))), classifier.logits(images)
    )


def test_both_normalise_pixels_alike():
    autoencoder, classifier = pretrained_pair("avg")
    images = images_of(2)
    torch.testing.assert_close(
        classifier.normalize_images(images), autoencoder.normalize_images(images), rtol=0, atol=0
    )
    deep = Classifier(make_vit(), FinetuneConfig(num_classes=4), mean=MEAN, std=STD, bits=16)
    wide = (images.int() * 257).to(torch.uint16)
    torch.testing.assert_close(deep.normalize_images(wide), classifier.normalize_images(images))
