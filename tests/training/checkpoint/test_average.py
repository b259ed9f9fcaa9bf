import copy

import pytest
import torch
from torch import nn

from mae.training.checkpoint.average import MovingAverage
from tests.training.test_optim import Shapes, build, equal, gradients, run
from tests.two_processes import run_two


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def test_it_is_of_the_trainable_parameters_only_and_begins_at_them():
    model = Shapes()
    model.token.requires_grad_(False)
    average = MovingAverage(model, 0.9)
    assert average.tensors().keys() == {"matrix", "vector", "kernel"}
    assert all(torch.equal(one, model.get_parameter(n)) for n, one in average.tensors().items())
    with torch.no_grad():
        model.vector.add_(1)
    assert not torch.equal(average.tensors()["vector"], model.vector)
    average.restart()
    assert torch.equal(average.tensors()["vector"], model.vector)
    assert average.tensors()["vector"].data_ptr() != model.vector.data_ptr()


def test_by_hand():
    """The decay rises: 2/11, 3/12, 4/13 … to .9."""
    model = nn.Linear(1, 1, bias=False)
    average, expected = MovingAverage(model, 0.9), model.weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.tensors()["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_weights_and_average_change_places_and_back():
    model, optimizer = build("adamw")
    average = MovingAverage(model, 0.5)
    for step in range(1, 4):
        run(model, optimizer, step, step + 1)
        average.update(step)
    own, averaged = weights(model), copy.deepcopy(average.tensors())
    places = {name: one.data_ptr() for name, one in model.named_parameters()}
    assert not torch.equal(own["matrix"], averaged["matrix"])
    with average.applied():
        assert equal(weights(model), averaged) and equal(average.tensors(), own)
        assert {name: one.data_ptr() for name, one in model.named_parameters()} == places
        with pytest.raises(AssertionError):
            average.update(4)
        with pytest.raises(AssertionError), average.applied():
            pass
    assert equal(weights(model), own) and equal(average.tensors(), averaged)


def test_what_goes_wrong_inside_leaves_the_weights_as_they_were():
    model = Shapes()
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.matrix.add_(1)
    own = weights(model)
    with pytest.raises(KeyError), average.applied():
        assert not equal(weights(model), own)
        raise KeyError
    assert equal(weights(model), own)
    gradients(model, 0)
    average.update(1)


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from pathlib import Path
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from mae.training.checkpoint.average import MovingAverage
from mae.training.checkpoint.checkpoint_files import TrainingState, reserve, write_checkpoint
from mae.training.checkpoint.resume import load_average, load_model
from mae.training.checkpoint.snapshot import Snapshots, checkpoint_tensors

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def build(is_sharded, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    if is_sharded:
        fully_shard(model[0], mesh=mesh)
        # The root's weights stay gathered after a forward pass.
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return model, optimizer, MovingAverage(model, 0.9)

x = torch.ones(2, 5)

def step(model, optimizer, average, number):
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(number)

def answer(model):
    with torch.no_grad():
        return model(x)

def taken(model, optimizer, average):
    tensors = Snapshots().take(checkpoint_tensors(model, optimizer, average), is_kept=True)
    return {key: tensor.clone() for key, tensor in tensors.model.items()}

whole, sharded = build(False), build(True)
for number in (1, 2, 3):
    for one in (whole, sharded):
        step(*one, number)
        own = answer(one[0])
        with one[2].applied():
            averaged = answer(one[0])
        assert not torch.equal(own, averaged)
        assert torch.equal(answer(one[0]), own)
        if one is whole:
            expected = averaged
    torch.testing.assert_close(averaged, expected)
found, expected = taken(*sharded), taken(*whole)
assert found.keys() == expected.keys() and sum(name.startswith("average.") for name in found) == 4
for key, tensor in expected.items():
    torch.testing.assert_close(found[key], tensor)

# A checkpoint of the sharded one, by every kind.
state = TrainingState(3, 24, "abc")
own = folder / str(rank)
own.mkdir()
tensors = Snapshots().take(checkpoint_tensors(*sharded), is_kept=True)
path = write_checkpoint(reserve(own, state, 0), tensors, state)
for is_sharded in (False, True):
    model, optimizer, average = build(is_sharded, seed=1)
    load_average(path, model, average)
    load_model(path, model)
    again = taken(model, optimizer, average)
    assert all(torch.equal(again[key], tensor) for key, tensor in found.items())
print("all the same")
dist.destroy_process_group()
"""


def test_sharded_weights_are_averaged_swapped_and_saved_as_whole_ones(tmp_path):
    assert run_two(SHARDED, tmp_path) == ["all the same"] * 2
