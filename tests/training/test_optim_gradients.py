import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from mae.training.optim import COUNTS_SKIPPED, set_lr, take_step
from tests.training.test_optim import LR, NAMES, build, equal, everything, gradients, run
from tests.two_processes import run_two


def optimizer_of(parameters):
    return torch.optim.AdamW(parameters, lr=0.1, fused=True)


def step(optimizer, parameters, value):
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    parameters[0].grad[0] = value
    return take_step(optimizer, 0.0).grad_norm


def parameters():
    return [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_changes_nothing_at_all(poison):
    ours, control = parameters(), parameters()
    guarded, plain = optimizer_of(ours), optimizer_of(control)
    for value in (1.0, poison, poison, 2.0):
        norm = step(guarded, ours, value)
        assert bool(norm.isfinite()) == math.isfinite(value)
        if math.isfinite(value):
            step(plain, control, value)
    assert all(torch.equal(one, other) for one, other in zip(ours, control, strict=True))
    for one, other in zip(ours, control, strict=True):
        for kind, value in guarded.state[one].items():
            assert torch.equal(value, plain.state[other][kind]), kind


def test_the_norm_is_that_of_all_gradients():
    ours = parameters()
    norm = step(optimizer_of(ours), ours, 3.0)
    assert norm.item() == pytest.approx(math.sqrt(9 + 1 + 1 + 4 * 4))


def skip(model, optimizer, poison=math.nan):
    """A step with one bad number in one gradient."""
    set_lr(optimizer, 0.01)
    gradients(model, 99)
    model.vector.grad[1] = poison
    taken = take_step(optimizer, 0.0)
    assert taken.skipped.shape == () and taken.skipped.dtype == torch.bool and bool(taken.skipped)
    assert not taken.grad_norm.isfinite()


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in COUNTS_SKIPPED])
def test_a_run_is_the_same_bit_for_bit_with_steps_that_were_skipped(name, first):
    """Two in a row, at the very start, where there is no state yet, or later."""
    whole = build(name)
    run(*whole, 0, 6)
    model, optimizer = build(name)
    run(model, optimizer, 0, first)
    for poison in (math.nan, math.inf):
        skip(model, optimizer, poison)
    run(model, optimizer, first, 6)
    assert equal(everything(model, optimizer), everything(*whole))


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Counts of steps, and all other tensors."""
    counts = {key: one for key, one in tensors.items() if key.startswith(("step/", "step:int/"))}
    return counts, {key: one for key, one in tensors.items() if key not in counts}


@pytest.mark.parametrize("name", sorted(COUNTS_SKIPPED))
def test_where_steps_are_counted_on_the_host_only_the_count_goes_on(name):
    model, optimizer = build(name)
    run(model, optimizer, 0, 3)
    before, kept = split(everything(model, optimizer))
    skip(model, optimizer)
    after, found = split(everything(model, optimizer))
    assert equal(found, kept)
    assert before and {key: one + 1 for key, one in before.items()} == after
    fresh, optimizer = build(name)
    weights = {key: one.clone() for key, one in fresh.state_dict().items()}
    skip(fresh, optimizer)
    _, found = split(everything(fresh, optimizer))
    assert equal({key: found.pop(key) for key in weights}, weights)
    assert found and not any(one.any() for one in found.values())


@pytest.mark.parametrize("name", sorted(COUNTS_SKIPPED))
def test_with_the_count_set_back_by_hand_nothing_has_happened(name):
    """So the count is the only thing that a skipped step leaves."""
    whole = build(name)
    run(*whole, 0, 6)
    model, optimizer = build(name)
    run(model, optimizer, 0, 3)
    skip(model, optimizer)
    for group in optimizer.param_groups:
        if "step" in group:
            group["step"] -= 1
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] -= 1
    run(model, optimizer, 3, 6)
    assert equal(everything(model, optimizer), everything(*whole))


@pytest.mark.parametrize("clip", [1e-3, 5.0, 1e6])
def test_long_gradients_are_clipped_as_by_torch(clip):
    ours, optimizer = build("momentum")
    theirs, plain = build("momentum")
    for number in range(4):
        for model, one in ((ours, optimizer), (theirs, plain)):
            set_lr(one, 0.01)
            gradients(model, number)
        taken = take_step(optimizer, clip)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        plain.step()
        assert torch.equal(taken.grad_norm, norm) and not taken.skipped
    assert equal(everything(ours, optimizer), everything(theirs, plain))


def test_clipping_does_not_hide_what_is_not_finite():
    model, optimizer = build("adamw")
    before = everything(model, optimizer)
    gradients(model, 0)
    model.matrix.grad = torch.full_like(model.matrix, math.inf)
    assert take_step(optimizer, 1.0).skipped
    assert equal({key: everything(model, optimizer)[key] for key in before}, before)


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_accelerates_optimizer_is_taken_too_and_gradients_are_dropped(name):
    ours, theirs = build(name), build(name)
    prepared = Accelerator(cpu=True).prepare(ours[1])
    for number in range(3):
        for model, optimizer in ((ours[0], prepared), (theirs[0], theirs[1])):
            set_lr(optimizer, LR[number])
            gradients(model, number)
            take_step(optimizer, 3.0)
            assert all(parameter.grad is None for parameter in model.parameters())
    assert equal(everything(*ours), everything(*theirs))
    skip(ours[0], prepared)
    gradients(ours[0], 3)
    prepared.step()  # a skipped step does not linger
    assert not equal(everything(*ours), everything(*theirs))


@pytest.mark.parametrize("name", ["adamw", "adam", "lion", "sgd", "lars"])
def test_nothing_waits_for_the_device(name, monkeypatch):
    model, optimizer = build(name)

    def wait(self, *args):
        raise AssertionError("the host asks for a number of the device")

    for method in ("item", "__bool__", "__float__", "__int__", "tolist", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, method, wait)
    for number in (1, 2):
        set_lr(optimizer, 0.01)
        gradients(model, number)
        take_step(optimizer, 1.0)


def test_parameters_without_a_gradient_stay():
    for name in ("adamw", "lion"):
        model, optimizer = build(name)
        before = model.token.detach().clone()
        gradients(model, 1)
        model.token.grad = None
        take_step(optimizer, 0.0)
        assert torch.equal(model.token, before) and not optimizer.state.get(model.token)


# Sharded weights

SHARDED = """
import math, sys
import torch
import torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from mae.config.sections import OptimConfig
from mae.networks.vit import parameter_groups
from mae.training.optim import take_step
from mae.training.optim import build_optimizer, set_lr
from mae.training.checkpoint.resume import load_optimizer
from mae.training.checkpoint.snapshot import Snapshots, checkpoint_tensors
from tests.training.test_optim import LR, NAMES, Shapes, gradients

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def build(name, is_sharded, seed=0):
    model = Shapes(seed)
    if is_sharded:
        fully_shard(model, mesh=mesh)
    config = OptimConfig.model_validate({"name": name})
    return model, build_optimizer(parameter_groups(model, 0.05), config)

def step(model, optimizer, number, poison=False):
    set_lr(optimizer, LR[number])
    whole = Shapes()
    gradients(whole, number)
    if poison:
        whole.vector.grad[1] = math.nan  # in the first process's shard
    for name, parameter in model.named_parameters():
        gradient = whole.get_parameter(name).grad
        if hasattr(parameter, "placements"):
            gradient = distribute_tensor(gradient, mesh, parameter.placements)
        parameter.grad = gradient
    return take_step(optimizer, 20.0)

def snapshot(model, optimizer):
    tensors = Snapshots().take(checkpoint_tensors(model, optimizer), is_kept=True)
    return tensors.model | tensors.optimizer

off = {}
for name in NAMES:
    found = []
    for is_sharded in (False, True):
        model, optimizer = build(name, is_sharded)
        assert step(model, optimizer, 1, poison=True).skipped
        for number in range(3):
            assert not step(model, optimizer, number).skipped
        before = snapshot(model, optimizer)
        step(model, optimizer, 4, poison=True)
        for key, tensor in snapshot(model, optimizer).items():
            if not key.startswith("step"):
                assert torch.equal(tensor, before[key]), (name, key)
        if is_sharded:
            taken = {key: one for key, one in snapshot(model, optimizer).items() if "/" in key}
            own = folder / str(rank)
            own.mkdir(exist_ok=True)
            save_file(taken, own / "optimizer.safetensors")
            weights = [one.detach().to_local().clone() for one in model.parameters()]
            model, optimizer = build(name, True, seed=1)
            with torch.no_grad():
                for parameter, weight in zip(model.parameters(), weights, strict=True):
                    parameter.to_local().copy_(weight)
            load_optimizer(own, model, optimizer)
        for number in range(3, 6):
            step(model, optimizer, number)
        found.append(snapshot(model, optimizer))
    one, two = found
    assert one.keys() == two.keys(), (name, one.keys() ^ two.keys())
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
print("all the same")
dist.destroy_process_group()
"""


def test_sharded_weights_are_stepped_clipped_skipped_and_resumed_as_whole_ones(tmp_path):
    """Every optimizer on two processes; one bad number in one shard stops both."""
    assert run_two(SHARDED, tmp_path) == ["all the same"] * 2
