import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mae.objectives.base import StepEnd
from mae.objectives.frozen import Frozen
from mae.objectives.linear_probe.model import GroupedNorm, LinearProbe, ProbeHead
from tests.evaluation.frozen import tiny_encoder, tiny_objective

GOOD = torch.tensor(False)


def probe(group=4, labels=()):
    return LinearProbe(tiny_encoder(), 32, 3, group=group, seed=0, labels=labels)


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_the_head_is_the_papers():
    head = ProbeHead(200, 50, seed=3)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.linear.bias.count_nonzero() == 0
    assert not list(head.norm.parameters())
    assert torch.equal(head.linear.weight, ProbeHead(200, 50, seed=3).linear.weight)
    assert not torch.equal(head.linear.weight, ProbeHead(200, 50, seed=4).linear.weight)


def test_batchnorm_uses_batch_then_running_statistics():
    norm, vectors = GroupedNorm(6), 5 + 3 * torch.randn(32, 6)
    centred = (vectors - vectors.mean(0)) / (vectors.var(0, unbiased=False) + 1e-6).sqrt()
    normal, groups = norm.normalize_groups(vectors, 32)
    torch.testing.assert_close(normal, centred)
    norm.update(groups, GOOD)
    torch.testing.assert_close(norm.running_mean, 0.1 * vectors.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * vectors.var(0))
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    torch.testing.assert_close(norm(vectors), (vectors - mean) / (var + 1e-6).sqrt())
    assert torch.equal(norm.running_mean, mean)


def test_groups_are_those_of_torchs_batchnorm_one_after_the_other():
    norm, vectors = GroupedNorm(6), 5 + 3 * torch.randn(5, 8, 6)
    reference = nn.BatchNorm1d(6, affine=False, eps=1e-6)
    expected = torch.cat([reference(group) for group in vectors])
    normal, groups = norm.normalize_groups(vectors.flatten(0, 1), 8)
    torch.testing.assert_close(normal, expected)
    norm.update(groups, torch.tensor(True))
    assert norm.running_mean.count_nonzero() == 0 and (norm.running_var == 1).all(), "skipped"
    norm.update(groups, GOOD)
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)
    torch.testing.assert_close(norm(vectors[0]), reference.eval()(vectors[0]))


def test_results_do_not_depend_on_how_groups_are_split():
    one, pixels, labels = probe(), images(12), torch.arange(12) % 3
    whole = one(pixels, labels, torch.zeros(()))
    parts = [one(pixels[i : i + 4], labels[i : i + 4], torch.zeros(())) for i in range(0, 12, 4)]
    loss = torch.stack([part.losses["cross_entropy"] for part in parts]).mean()
    torch.testing.assert_close(whole.losses["cross_entropy"], loss)
    groups = torch.cat([part.carry["groups"] for part in parts])
    torch.testing.assert_close(whole.carry["groups"], groups)
    vectors = one.vectors(pixels).unflatten(0, (3, 4))
    torch.testing.assert_close(groups[:, 0], vectors.mean(1))
    torch.testing.assert_close(groups[:, 1], vectors.var(1))


def test_labels_become_class_numbers():
    one = probe(labels=(2, 5, 900))
    assert one.draw(
        images(3), torch.zeros(3, dtype=torch.int64), torch.tensor([900, 2, 5])
    ).tolist() == [2, 0, 1]
    assert probe().draw(
        images(3), torch.zeros(3, dtype=torch.int64), torch.tensor([2, 0, 1])
    ).tolist() == [2, 0, 1]


def test_the_encoder_is_frozen_and_in_no_checkpoint():
    one = probe().train()
    assert {name for name in one.state_dict()} == {
        "head.norm.running_mean",
        "head.norm.running_var",
        "head.linear.weight",
        "head.linear.bias",
    }
    assert one.head.training and not any(part.training for part in one.frozen.modules())
    assert [name for name, p in one.named_parameters() if p.requires_grad] == [
        "head.linear.weight",
        "head.linear.bias",
    ]
    output = one(images(4), torch.arange(4) % 3, torch.zeros(()))
    output.losses["cross_entropy"].backward()
    assert all(parameter.grad is None for parameter in one.frozen.parameters())
    assert one.head.linear.weight.grad is not None
    other = probe()
    other.load_state_dict({n: t + 1 for n, t in one.state_dict().items()}, strict=True)
    assert torch.equal(other.head.linear.bias, one.head.linear.bias + 1)
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.linear\.bias"):
        other.load_state_dict({"head.linear.weight": one.head.linear.weight}, strict=True)


def test_a_frozen_part_follows_its_owner():
    inner = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    owner = nn.ModuleDict({"part": Frozen(inner), "own": nn.Linear(2, 2)})
    owner.train().double()
    assert inner[1].weight.dtype == torch.float64 and not inner.training
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    assert not owner["part"](torch.ones(1, 2, dtype=torch.float64)).requires_grad
    assert owner.load_state_dict(owner.state_dict(), strict=True).missing_keys == []


def test_capabilities_are_those_of_a_classifier():
    one, pixels = probe().eval(), images(5)
    assert len(one.encoder_module().state_dict()) > 10, "features are known by the encoder"
    features, encoded = one.encode(pixels), tiny_objective().encode(pixels)
    assert torch.equal(features.pooled["cls"], encoded.pooled["cls"])
    assert features.tokens is not None and encoded.tokens is not None
    assert torch.equal(features.tokens, encoded.tokens)
    step = StepEnd(1, 0, GOOD, {"groups": torch.randn(2, 2, 32).abs()})
    one.after_step(step)
    normal = one.head.norm(features.pooled["cls"])
    torch.testing.assert_close(
        one.logits(pixels), F.linear(normal, one.head.linear.weight, one.head.linear.bias)
    )
