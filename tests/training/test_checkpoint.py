import pickletools
from pathlib import Path

import pytest
import torch
from torch import nn

from mae.config import OptimConfig
from mae.errors import UserError
from mae.training.checkpoint import (
    Position,
    checkpoints,
    load_model,
    load_optimizer,
    newest_checkpoint,
    save_checkpoint,
)
from mae.training.optim import build_optimizer, set_lr


def stepped(steps=3, seed=0):
    """A small model and its optimizer after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, OptimConfig())
    set_lr(optimizer, 0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def position(step=3):
    return Position(step=step, samples=8 * step, data="abc")


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, model, optimizer, position(), keep_last=2)
    resumed, resumed_optimizer = stepped(steps=0, seed=1)
    load_model(path, resumed)
    load_optimizer(path, resumed, resumed_optimizer)
    for m, o in ((model, optimizer), (resumed, resumed_optimizer)):
        set_lr(o, 0.05)
        step(m, o)
        step(m, o)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_newest_are_kept_and_nothing_temporary_is_left(tmp_path):
    model, optimizer = stepped()
    for number in (1, 2, 30, 4):
        save_checkpoint(tmp_path, model, optimizer, position(number), keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000004", "step-000000030"]
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.position == position(30) and not found.damaged


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, model, optimizer, position(), keep_last=2)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    for file in path.iterdir():
        with pytest.raises(Exception, match=r"."):
            list(pickletools.genops(file.read_bytes()))


def test_a_write_cut_short_leaves_the_one_before(tmp_path, monkeypatch):
    model, optimizer = stepped()
    save_checkpoint(tmp_path, model, optimizer, position(1), keep_last=2)

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mae.training.checkpoint._sync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, model, optimizer, position(2), keep_last=2)
    monkeypatch.undo()
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000001"]
    save_checkpoint(tmp_path, model, optimizer, position(2), keep_last=2)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path, file, damage):
    model, optimizer = stepped()
    save_checkpoint(tmp_path, model, optimizer, position(1), keep_last=3)
    path = save_checkpoint(tmp_path, model, optimizer, position(2), keep_last=3) / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data if damage == "flip" else data[:-7])
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.position.step == 1
    (reason,) = found.damaged.values()
    assert str(path.parent) in reason


def test_when_all_are_damaged_nothing_is_started_over(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, model, optimizer, position(1), keep_last=2)
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        newest_checkpoint(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(Path("nowhere")) is None


def test_weights_of_another_model_are_refused(tmp_path):
    model, optimizer = stepped()
    path = save_checkpoint(tmp_path, model, optimizer, position(), keep_last=2)
    with pytest.raises(UserError, match="do not fit this model"):
        load_model(path, nn.Linear(3, 4))
    other = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(UserError, match="lacks"):
        load_optimizer(path, other, build_optimizer(other, OptimConfig()))
    smaller = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(UserError, match="holds unknown"):
        load_optimizer(path, smaller, build_optimizer(smaller, OptimConfig()))
