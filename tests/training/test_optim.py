from typing import get_args

import pytest
import timm.optim
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mae.config.sections import OptimConfig, OptimizerName
from mae.networks.vit import parameter_groups
from mae.training.checkpoint.resume import load_optimizer
from mae.training.checkpoint.snapshot import checkpoint_tensors
from mae.training.optim import (
    COUNTS_SKIPPED,
    build_optimizer,
    lr_at,
    num_moments,
    set_lr,
    take_step,
    total_norm,
)

NAMES = get_args(OptimizerName)
LR = (0.0, 0.01, 0.02, 0.02, 0.01, 0.01)
"""a run's first steps: the warm-up begins at 0"""


class Shapes(nn.Module):
    """A matrix, a vector, a kernel and a token, as large as optimizers begin to factor at."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(40, 36, generator=generator))
        self.vector = nn.Parameter(torch.randn(41, generator=generator))
        self.kernel = nn.Parameter(torch.randn(32, 32, 2, 2, generator=generator))
        self.token = nn.Parameter(torch.randn(1, 1, 40, generator=generator))


def build(name: str, seed: int = 0) -> tuple[Shapes, torch.optim.Optimizer]:
    model = Shapes(seed)
    groups = parameter_groups(model, 0.05)
    groups[0]["lr_scale"] = 0.5
    return model, build_optimizer(groups, OptimConfig.model_validate({"name": name}))


def gradients(model: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(100 + number)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for number in range(first, last):
        set_lr(optimizer, LR[number])
        gradients(model, number)
        take_step(optimizer, 0.0)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all that a checkpoint holds; numbers of Python among it."""
    tensors = checkpoint_tensors(model, optimizer)
    return {key: tensor.clone() for key, tensor in (tensors.model | tensors.optimizer).items()}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == tensor.dtype and torch.equal(found[key], tensor)
        for key, tensor in expected.items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_bit_for_bit_from_what_is_saved(name, tmp_path):
    """Weights, moments and counts: three steps, saved and loaded, and three more."""
    whole = build(name)
    run(*whole, 0, 6)
    model, optimizer = build(name)
    run(model, optimizer, 0, 3)
    save_file(checkpoint_tensors(model, optimizer).optimizer, tmp_path / "optimizer.safetensors")
    resumed, resumed_optimizer = build(name, seed=1)
    resumed.load_state_dict(model.state_dict())
    load_optimizer(tmp_path, resumed, resumed_optimizer)
    assert equal(everything(resumed, resumed_optimizer), everything(model, optimizer))
    run(resumed, resumed_optimizer, 3, 6)
    assert equal(everything(resumed, resumed_optimizer), everything(*whole))


@pytest.mark.parametrize("name", ["adabelief", "adan", "lamb"])
def test_numbers_of_python_come_back_as_such(name, tmp_path):
    model, optimizer = build(name)
    run(model, optimizer, 0, 2)
    save_file(checkpoint_tensors(model, optimizer).optimizer, tmp_path / "optimizer.safetensors")
    resumed, resumed_optimizer = build(name)
    load_optimizer(tmp_path, resumed, resumed_optimizer)
    for old, new in zip(optimizer.param_groups, resumed_optimizer.param_groups, strict=True):
        assert type(old.get("step")) is type(new.get("step")) and old.get("step") == new.get("step")
    for old, new in zip(model.parameters(), resumed.parameters(), strict=True):
        before, after = optimizer.state[old], resumed_optimizer.state[new]
        assert {kind: type(value) for kind, value in before.items()} == {
            kind: type(value) for kind, value in after.items()
        }


def test_a_file_of_adamw_has_the_names_that_it_always_had():
    model, optimizer = build("adamw")
    run(model, optimizer, 0, 1)
    names = {"matrix", "vector", "kernel", "token"}
    expected = {f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq", "step") for name in names}
    assert checkpoint_tensors(model, optimizer).optimizer.keys() == expected


def test_adamw_is_torchs_bit_for_bit():
    ours, optimizer = build("adamw")
    theirs = Shapes()
    plain = torch.optim.AdamW(
        [
            {"params": [theirs.matrix, theirs.kernel], "weight_decay": 0.05, "lr_scale": 0.5},
            {"params": [theirs.vector, theirs.token], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )
    run(ours, optimizer, 0, 6)
    for number in range(6):
        set_lr(plain, LR[number])
        gradients(theirs, number)
        plain.step()
    assert equal(everything(ours, optimizer), everything(theirs, plain))


def test_adamw_is_the_recipes_and_follows_the_schedule():
    optimizer = build_optimizer(parameter_groups(nn.Linear(2, 2), 0.05), OptimConfig())
    assert isinstance(optimizer, torch.optim.AdamW)
    set_lr(optimizer, 0.25)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.95)
        assert group["eps"] == 1e-8
        assert group["lr"] == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_taken_as_they_are(name):
    """Two groups with decay and share of their own, and betas[0] for momentum."""
    _, optimizer = build(name)
    matrices, others = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(40, 36), (32, 32, 2, 2)]
    assert len(others["params"]) == 2
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert matrices["lr_scale"] == 0.5 and "lr_scale" not in others
    assert matrices.get("momentum", 0.9) == 0.9
    if len(matrices.get("betas", ())) == 2:
        assert matrices["betas"] == (0.9, 0.95)


def test_only_what_has_been_tried_is_a_name():
    """Names of timm's optimizers without extra packages, Hessians and closures, and resumable."""
    assert set(NAMES) <= set(timm.optim.list_optimizers())
    with pytest.raises(ValueError, match="name"):
        OptimConfig.model_validate({"name": "adahessian"})
    assert set(NAMES) > COUNTS_SKIPPED


@pytest.mark.parametrize(
    ("name", "moments"), [("adamw", 2), ("lion", 1), ("sgd", 1), ("adan", 4), ("lamb", 2)]
)
def test_moments_are_counted(name, moments):
    assert num_moments(OptimConfig.model_validate({"name": name})) == moments


# LARS


def probe(dtype: torch.dtype) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear probe: head, features and classes."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(192, 100)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    features = torch.randn(512, 192, generator=generator).to(dtype)
    return head.to(dtype), features, torch.randint(0, 100, (512,), generator=generator)


def rates(steps: int) -> list[float]:
    """Learning rates of the linear probe: 1/9 warm-up, half a cosine to 0, peak of batch 16384."""
    epochs = [90 * step / steps for step in range(steps)]
    return [lr_at(one, lr=6.4, min_lr=0.0, warmup_epochs=10.0, epochs=90.0) for one in epochs]


@torch.no_grad()
def lars_step(momenta: list[Tensor], weights: list[Tensor], lr: float) -> None:
    """v ← .9 v + .001 |w| / |g| g;  w ← w - lr v.  Vectors are not scaled, nor are zero lengths."""
    for momentum, own in zip(momenta, weights, strict=True):
        assert own.grad is not None
        change = own.grad
        if own.ndim > 1:
            size, length = own.norm(), change.norm()
            scale = torch.where((size > 0) & (length > 0), 0.001 * size / length, 1.0)
            change = change * scale
        momentum.mul_(0.9).add_(change)
        own.sub_(lr * momentum)


def lars_probe(dtype: torch.dtype, zeros: bool = False, steps: int = 50) -> list[list[Tensor]]:
    """Weight and bias after 50 steps by timm's LARS, and by the formula."""
    answers = []
    for is_ours in (False, True):
        head, features, classes = probe(dtype)
        if zeros:
            nn.init.zeros_(head.weight)
        groups = parameter_groups(head, 0.0)
        optimizer = build_optimizer(groups, OptimConfig(name="lars"))
        weights: list[Tensor] = list(head.parameters())
        momenta = [torch.zeros_like(one) for one in weights]
        for lr in rates(steps):
            F.cross_entropy(head(features), classes).backward()
            if is_ours:
                lars_step(momenta, weights, lr)
                head.zero_grad()
            else:
                set_lr(optimizer, lr)
                take_step(optimizer, 0.0)
        answers.append([one.detach() for one in weights])
    return answers


def test_lars_of_a_linear_probe_is_the_papers():
    (weight, bias), (expected_weight, expected_bias) = lars_probe(torch.float32)
    assert (weight - expected_weight).abs().max() <= 2e-8  # of weights up to 0.07
    assert (bias - expected_bias).abs().max() <= 2.5e-7  # of up to 2, where floats are so far apart
    assert expected_weight.abs().max() > 0.05 and expected_bias.abs().max() > 1


@pytest.mark.parametrize("zeros", [False, True])
def test_lars_differs_by_rounding_only(zeros):
    """Also from weights of length 0, which small denominators of timm's would change."""
    for found, expected in zip(*lars_probe(torch.float64, zeros), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_lars_scales_matrices_and_neither_vectors_nor_tokens():
    _, optimizer = build("lars")
    assert [group["always_adapt"] for group in optimizer.param_groups] == [True, False]
    assert {group["eps"] for group in optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, torch.float64]], ids=str)
def test_the_norm_is_that_of_torch_bit_for_bit(dtypes):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (7,), (64, 64), ()]
    gradients = [torch.randn(s, generator=generator, dtype=d) for s in shapes for d in dtypes]
    assert torch.equal(total_norm(gradients), torch.nn.utils.get_total_norm(gradients))
    gradients[1].fill_(torch.inf)
    assert total_norm(gradients).isinf()
