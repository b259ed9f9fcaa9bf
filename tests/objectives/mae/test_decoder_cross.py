"""Cross-attention decoder: against plain loops, and as a part of the model."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.cost import cost_of
from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.objectives.mae.decoder import CrossDecoder
from mae.objectives.mae.masking import PatchSplit
from tests.objectives.losses import loss_of
from tests.objectives.mae.test_model import small_mae, some_images

CROSS = {"decoder_attention": "cross", "decoder_depth": 2}


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = CrossDecoder(24, 3, 16, 2, 4, (4, 4), 1, 12).double()
    for parameter in decoder.parameters():  # what begins at 0 or 1 would hide mistakes
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def by_loops(decoder, features, split):
    """Reference in plain loops: one image, block, head and hidden patch at a time."""
    state = decoder.state_dict()

    def linear(x, name):
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-6)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    heads, width = decoder.blocks[0].attn.num_heads, state["mask_token"].shape[-1]
    size = width // heads
    answers = []
    for image, hidden in enumerate(split.ids_masked):
        for patch in hidden:
            x = state["mask_token"][0, 0] + state["pos_embed"][0, patch]
            for number in range(len(decoder.blocks)):
                name = f"blocks.{number}"
                q = linear(norm(x, f"{name}.norm1"), f"{name}.attn.q")
                keys, values = [], []
                for token in range(features[0].shape[1]):
                    memory = sum(
                        weight * feature[image, token]
                        for weight, feature in zip(state["mixture"][number], features, strict=True)
                    )
                    kv = linear(norm(memory, f"{name}.norm_memory"), f"{name}.attn.kv")
                    keys.append(kv[:width])
                    values.append(kv[width:])
                found = []
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    scores = torch.stack([q[part] @ key[part] for key in keys]) / math.sqrt(size)
                    shares = scores.softmax(0)
                    found.append(shares @ torch.stack(values)[:, part])
                x = x + linear(torch.cat(found), f"{name}.attn.proj")
                inner = F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
                x = x + linear(inner, f"{name}.mlp.fc2")
            answers.append(linear(norm(x, "norm"), "pred"))
    return torch.stack(answers).unflatten(0, split.ids_masked.shape)


def some_features(b=2):
    features = [torch.randn(b, 5, 24, dtype=torch.float64) for _ in range(3)]
    shuffle = torch.stack([torch.randperm(16) for _ in range(b)])
    return features, PatchSplit(shuffle[:, :4], shuffle[:, 4:])


def test_cross_decoder_equals_plain_loops(decoder):
    features, split = some_features()
    found = decoder(features, split)
    torch.testing.assert_close(found, by_loops(decoder, features, split), rtol=1e-10, atol=1e-10)


def test_each_patch_is_predicted_independently(decoder):
    features, split = some_features()
    some = PatchSplit(split.ids_keep, split.ids_masked[:, 3:7])
    torch.testing.assert_close(decoder(features, some), decoder(features, split)[:, 3:7])


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_every_trainable_parameter_gets_a_gradient(ratio):
    model = small_mae(**CROSS, prediction_ratio=ratio)
    images = some_images()
    loss_of(model, images, model.draw(images, torch.arange(4))).backward()
    lacking = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not lacking


def test_loss_covers_the_predicted_share():
    model = small_mae(**CROSS, prediction_ratio=0.25)
    images = some_images()
    split = model.draw(images, torch.arange(4))
    assert split.ids_masked.shape[1] == 12 and model.num_predicted == 4
    patches = model.patchify(images)
    errors = (model.predict(patches, split) - model.target(patches, split.ids_masked)).square()
    loss = loss_of(model, images, split).item()
    assert loss == pytest.approx(errors[:, :4].mean().item(), rel=1e-5)


def test_reconstructions_show_all_hidden_patches():
    model = small_mae(**CROSS, prediction_ratio=0.25)
    images = some_images()
    pasted, mask, _ = model.reconstruct(images, model.draw(images, torch.arange(4)))
    assert mask is not None
    assert pasted.shape == images.shape and mask.mean().item() == 0.75


def test_fewer_predictions_cost_fewer_flop():
    def flops(**settings):
        model, images = small_mae(**settings), some_images()
        split = model.draw(images, torch.arange(4))
        return cost_of(lambda: loss_of(model, images, split), model).flops

    quarter = flops(**CROSS, prediction_ratio=0.25)
    assert quarter < flops(**CROSS) < flops(decoder_depth=2)


@pytest.mark.parametrize("ratio", [0.01, 0.9])
def test_an_impossible_prediction_ratio_is_refused(ratio):
    with pytest.raises(UserError, match=r"model.prediction_ratio: 0\.\d+ of 16 patches are \d+"):
        small_mae(**CROSS, prediction_ratio=ratio)


def test_prediction_ratio_requires_cross_attention():
    with pytest.raises(UserError, match=r"model.prediction_ratio: is for model.decoder_attention"):
        load_config(None, ["data.train=a.tar", "model.prediction_ratio=0.25"])


def test_grad_checkpointing_gives_the_same():
    model, images = small_mae(**CROSS), some_images()
    split = model.draw(images, torch.arange(4))
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        loss_of(model, images, split).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(map(torch.equal, *found))
