import errno
import json
import os
import pickle
import pickletools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mae.base.errors import StorageError, UserError
from mae.config.sections import OptimConfig
from mae.networks.vit import parameter_groups
from mae.training.checkpoint import checkpoint_files, resume
from mae.training.checkpoint.average import MovingAverage
from mae.training.checkpoint.checkpoint_files import (
    TrainingState,
    checkpoints,
    newest_checkpoint,
    read_state,
    reserve,
    with_checksum,
    write_checkpoint,
)
from mae.training.checkpoint.resume import load_average, load_model, load_optimizer
from mae.training.checkpoint.saver import delete_after, keep_newest_damaged, prune_checkpoints
from mae.training.checkpoint.snapshot import Snapshots, checkpoint_tensors
from mae.training.optim import build_optimizer, set_lr


def stepped(steps=3, seed=0) -> tuple[Any, torch.optim.Optimizer]:
    """A small model and its optimizer after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(parameter_groups(model, 0.05), OptimConfig())
    set_lr(optimizer, 0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def training_state(step=3):
    return TrainingState(step=step, samples=8 * step, data="abc")


def write(folder, number=3, model_and_optimizer=None, **fields):
    """A checkpoint of step `number`, from here."""
    model, optimizer = model_and_optimizer or stepped()
    tensors = checkpoint_tensors(model, optimizer)
    where = training_state(number)._replace(**fields)
    part = reserve(folder, where, tensors.num_bytes)
    return write_checkpoint(part, Snapshots().take(tensors, is_kept=True), where)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(name.removeprefix("step-")) for name in names(folder)]


def sealed(state):
    """A state.json that vouches for itself."""
    return json.dumps(with_checksum(state))


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    model, optimizer = stepped()
    path = write(tmp_path, 3, (model, optimizer))
    resumed, resumed_optimizer = stepped(steps=0, seed=1)
    load_model(path, resumed)
    load_optimizer(path, resumed, resumed_optimizer)
    for m, o in ((model, optimizer), (resumed, resumed_optimizer)):
        set_lr(o, 0.05)
        step(m, o)
        step(m, o)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_position_comes_back_as_it_was(tmp_path):
    path = write(tmp_path, 7, skipped=(4, 5))
    assert read_state(path) == TrainingState(7, 56, "abc", (4, 5))


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    path = write(tmp_path)
    assert names(path) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    for file in path.iterdir():
        with pytest.raises(Exception, match=r"."):
            list(pickletools.genops(file.read_bytes()))


def test_a_write_cut_short_leaves_the_one_before_and_nothing_temporary(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mae.training.checkpoint.checkpoint_files.sync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2)
    assert names(tmp_path) == ["step-000000001"]
    monkeypatch.undo()
    write(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


def test_all_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Files, then their folder, then the rename, then the folder that holds the name."""
    events = []
    sync, rename = checkpoint_files.sync, Path.rename
    monkeypatch.setattr(
        checkpoint_files, "sync", lambda path: (events.append(path.name), sync(path))
    )
    monkeypatch.setattr(
        Path, "rename", lambda old, new: (events.append("rename"), rename(old, new))[1]
    )
    write(tmp_path, 1)
    *written, part, renamed, parent = events
    assert sorted(written) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert part.endswith(".tmp") and renamed == "rename" and parent == tmp_path.name


def test_a_file_system_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(checkpoint_files, "MARGIN_BYTES", 0)
    with pytest.raises(OSError, match=r"it needs [\d,.]+ MB, and [\d,.]+ MB are free"):
        reserve(tmp_path, training_state(), 2 * free)
    assert names(tmp_path) == []


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        reserve(tmp_path / "gone", training_state(), 0)
    assert names(tmp_path) == []


def test_two_processes_that_save_the_same_step_leave_one_whole_checkpoint(tmp_path):
    tensors = Snapshots().take(checkpoint_tensors(*stepped()), is_kept=True)
    first, second = (reserve(tmp_path, training_state(), 0) for _ in range(2))
    assert write_checkpoint(first, tensors, training_state()) == write_checkpoint(
        second, tensors, training_state()
    )
    assert read_state(tmp_path / "step-000000003") == training_state()
    assert names(tmp_path) == ["step-000000003"]


@pytest.mark.parametrize("stale", ["damaged", "of before a rollback"])
def test_the_name_of_a_checkpoint_that_is_not_wanted_is_taken_over(tmp_path, stale):
    path = write(tmp_path, 3, stepped(1))
    if stale == "damaged":
        flip(path / "model.safetensors")
    new = stepped(2)
    write(tmp_path, 3, new, skipped=(2,))
    assert read_state(path).skipped == (2,)
    loaded, _ = stepped(0)
    load_model(path, loaded)
    assert torch.equal(loaded[0].weight, new[0][0].weight)
    assert names(tmp_path) == ["step-000000003"]


def test_the_newest_are_kept_and_nothing_temporary_is_left(tmp_path):
    for number in (1, 2, 30, 4):
        prune_checkpoints(tmp_path, 2, 0, written=write(tmp_path, number))
    assert steps(tmp_path) == [4, 30]
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state == training_state(30) and not found.damaged


def test_what_was_just_written_is_never_deleted(tmp_path):
    for number in (20, 30, 4):
        prune_checkpoints(tmp_path, 2, 0, written=write(tmp_path, number))
    assert steps(tmp_path) == [4, 20, 30]


def test_checkpoints_at_multiples_are_kept_for_good(tmp_path):
    for number in range(1, 12):
        prune_checkpoints(tmp_path, 2, 4, written=write(tmp_path, number))
    assert steps(tmp_path) == [4, 8, 10, 11]


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(tmp_path):
    for number in (1, 2):
        write(tmp_path, number)
    flip(tmp_path / "step-000000002" / "model.safetensors")
    prune_checkpoints(tmp_path, 2, 0, written=write(tmp_path, 3))
    assert steps(tmp_path) == [1, 2, 3]
    prune_checkpoints(tmp_path, 2, 0, written=write(tmp_path, 4))
    assert steps(tmp_path) == [3, 4]


def test_of_damaged_ones_the_newest_is_kept_and_counts_as_none(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, number)
    paths = [tmp_path / f"step-{number:09d}" for number in (2, 3)]
    assert keep_newest_damaged(tmp_path, {}) is None
    assert keep_newest_damaged(tmp_path, paths[:1]) == paths[0].with_suffix(".damaged")
    assert keep_newest_damaged(tmp_path, [paths[1]]) == paths[1].with_suffix(".damaged")
    assert names(tmp_path) == ["step-000000001", "step-000000003.damaged"]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000001"]
    again = write(tmp_path, 3)
    assert keep_newest_damaged(tmp_path, [again]) == again.with_suffix(".damaged")
    assert names(tmp_path) == ["step-000000001", "step-000000003.damaged"]


def test_a_damaged_one_goes_where_its_room_is_needed(tmp_path, monkeypatch):
    keep_newest_damaged(tmp_path, [write(tmp_path, 3)])
    kept = tmp_path / "step-000000003.damaged"
    need = 2 * checkpoint_files.MARGIN_BYTES
    monkeypatch.setattr(
        checkpoint_files,
        "_free_bytes",
        lambda folder: 1.5 * checkpoint_files.MARGIN_BYTES if kept.exists() else need,
    )
    reserve(tmp_path, training_state(4), 0).rmdir()
    assert kept.exists()
    reserve(tmp_path, training_state(4), checkpoint_files.MARGIN_BYTES).rmdir()
    assert names(tmp_path) == []


def test_a_future_that_is_undone_is_forgotten(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, number)
    delete_after(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_found_and_the_one_before_is_used(tmp_path, file, damage):
    write(tmp_path, 1)
    path = write(tmp_path, 2) / file
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        flip(path)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state.step == 1
    (reason,) = found.damaged.values()
    assert str(path.parent) in reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no readable checkpoint"),
        ("[]", "no readable checkpoint"),
        ("\x00\xff", "no readable checkpoint"),
        ('{"format": 9}', "state.json is damaged"),
        (sealed({"format": 1, "files": []}), "no readable checkpoint"),
        (sealed({"format": 1, "files": {}, "step": 2, "samples": 9, "data": ""}), "no readable"),
    ],
)
def test_a_state_that_says_nothing_is_passed_over(tmp_path, text, reason):
    write(tmp_path, 1)
    (write(tmp_path, 2) / "state.json").write_text(text, encoding="latin-1")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state.step == 1
    assert reason in next(iter(found.damaged.values()))


def one_digit_of(text):
    return ("0" if text[0] != "0" else "1") + text[1:]


CHANGES = {
    "format": lambda state: {"format": 2},
    "step": lambda state: {"step": state["step"] + 1},
    "samples": lambda state: {"samples": state["samples"] - 8},
    "data": lambda state: {"data": one_digit_of(state["data"])},
    "skipped": lambda state: {"skipped": []},
    "run": lambda state: {"run": "another"},
    "files": lambda state: {
        "files": {
            name: {**stamp, "sha256": one_digit_of(stamp["sha256"])}
            for name, stamp in state["files"].items()
        }
    },
    "sha256": lambda state: {"sha256": one_digit_of(state["sha256"])},
}


def test_every_field_of_a_state_is_changed_below(tmp_path):
    state = json.loads((write(tmp_path, 2) / "state.json").read_text())
    assert CHANGES.keys() == state.keys()


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("change", ["another value", "gone"])
def test_a_state_with_one_field_changed_is_passed_over(tmp_path, field, change):
    write(tmp_path, 1)
    file = write(tmp_path, 2, skipped=(1,), data="0123abc") / "state.json"
    state = json.loads(file.read_text())
    changed = state | CHANGES[field](state)
    if change == "gone":
        del changed[field]
    assert changed != state
    file.write_text(json.dumps(changed))
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state.step == 1
    assert list(found.damaged) == [file.parent]


def test_a_state_that_is_written_otherwise_with_the_same_content_is_read(tmp_path):
    file = write(tmp_path, 7, skipped=(4,)) / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(state.items()))))
    assert read_state(file.parent).skipped == (4,)


def test_a_checkpoint_of_a_newer_version_stops_the_start(tmp_path):
    """Skipping it would lose the training done by the newer version."""
    write(tmp_path, 1)
    file = write(tmp_path, 2) / "state.json"
    file.write_text(sealed({**json.loads(file.read_text()), "format": 2, "more": "of it"}))
    with pytest.raises(UserError, match="000002: format 2; this version reads 1: install a newer"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output"), (errno.ESTALE, "Stale")],
)
def test_a_file_that_cannot_be_read_is_not_taken_for_damage(
    tmp_path, monkeypatch, file, number, reason
):
    write(tmp_path, 1)
    path = write(tmp_path, 2) / file
    open_whole = Path.open

    def fail(self, *arguments, **named):
        if self == path:
            raise OSError(number, os.strerror(number))
        return open_whole(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StorageError) as refused:
        newest_checkpoint(tmp_path)
    assert str(refused.value).startswith(f"{path}: cannot be read: {reason}")
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state.step == 2


@pytest.mark.parametrize("load", ["model", "optimizer"])
def test_what_cannot_be_read_a_moment_later_is_no_misfit(tmp_path, monkeypatch, load):
    path = write(tmp_path)

    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(resume, "load_file", fail)
    model, optimizer = stepped()
    with pytest.raises(StorageError, match=rf"{load}\.safetensors: cannot be read: Input/output"):
        if load == "model":
            load_model(path, model)
        else:
            load_optimizer(path, model, optimizer)


def test_an_empty_folder_is_passed_over(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step-000000002").mkdir()
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state.step == 1
    assert "state.json" in found.damaged[tmp_path / "step-000000002"]


def test_when_all_are_damaged_each_is_named_and_nothing_is_started_over(tmp_path):
    for number in (1, 2):
        (write(tmp_path, number) / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        newest_checkpoint(tmp_path)
    newer, older, hint = str(refused.value).splitlines()
    assert "step-000000002: model.safetensors is damaged" in newer
    assert "step-000000001: model.safetensors is damaged" in older
    assert hint == f"{tmp_path}: no intact checkpoint; delete these to start over"


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(Path("nowhere")) is None
    (tmp_path / "step-by-step.txt").write_text("how to resume")
    assert checkpoints(tmp_path) == []


def test_going_back_looks_only_at_what_was_before(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, number)
    found = newest_checkpoint(tmp_path, before=3)
    assert found is not None and found.state.step == 2
    assert newest_checkpoint(tmp_path, before=1) is None


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_by_that_name_is_refused_and_not_executed(tmp_path, file, dump):
    """Also where its state.json vouches for it, as that of a malicious checkpoint would."""
    path, sprung = write(tmp_path), tmp_path / "sprung"
    with (path / file).open("wb") as hostile:
        dump(Trap(sprung), hostile)
    state = json.loads((path / "state.json").read_text())
    state["files"][file] = checkpoint_files._stamp(path / file)
    (path / "state.json").write_text(sealed(state))
    assert read_state(path)
    model, optimizer = stepped()
    with pytest.raises(UserError, match=str(path)):
        load_model(path, model)
        load_optimizer(path, model, optimizer)
    assert not sprung.exists()


def test_weights_of_another_model_are_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UserError, match="do not fit this model"):
        load_model(path, nn.Linear(3, 4))
    other = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(UserError, match="lacks"):
        load_optimizer(path, other, build_optimizer(parameter_groups(other, 0.05), OptimConfig()))
    smaller = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(UserError, match="holds unknown"):
        load_optimizer(
            path, smaller, build_optimizer(parameter_groups(smaller, 0.05), OptimConfig())
        )


def test_moments_of_another_shape_are_refused(tmp_path):
    """Broadcasting would take them without a word, or fail at the first step."""
    path = write(tmp_path)
    model, optimizer = stepped()
    moments = dict(checkpoint_tensors(model, optimizer).optimizer)
    moments["exp_avg/0.weight"] = torch.zeros(1, 3)
    save_file(moments, path / "optimizer.safetensors")
    with pytest.raises(UserError, match=r"exp_avg/0\.weight has shape \[1, 3\], not \[4, 3\]"):
        load_optimizer(path, model, optimizer)


# A moving average of the weights


def averaged(seed=0):
    """Model, optimizer and average after some steps."""
    model, optimizer = stepped(0, seed)
    average = MovingAverage(model, 0.9)
    for number in (1, 2, 3):
        step(model, optimizer)
        average.update(number)
    return model, optimizer, average


def write_averaged(folder, model, optimizer, average):
    tensors = checkpoint_tensors(model, optimizer, average)
    part = reserve(folder, training_state(), tensors.num_bytes)
    return write_checkpoint(part, Snapshots().take(tensors, is_kept=True), training_state())


def test_an_average_goes_on_bit_for_bit(tmp_path):
    state = averaged()
    path = write_averaged(tmp_path, *state)
    resumed, optimizer = stepped(0, seed=1)
    average = MovingAverage(resumed, 0.9)
    load_average(path, resumed, average)
    load_model(path, resumed)
    load_optimizer(path, resumed, optimizer)
    for model, one, its in (state, (resumed, optimizer, average)):
        for number in (4, 5):
            step(model, one)
            its.update(number)
    for name, tensor in state[2].tensors().items():
        assert torch.equal(average.tensors()[name], tensor)
        assert torch.equal(resumed.get_parameter(name), state[0].get_parameter(name))


def test_averaged_weights_are_loaded_where_asked_for(tmp_path):
    model, optimizer, average = averaged()
    path = write_averaged(tmp_path, model, optimizer, average)
    for is_averaged in (False, True):
        found, _ = stepped(0, seed=1)
        load_model(path, found, averaged=is_averaged)
        for name, tensor in found.named_parameters():
            expected = average.tensors()[name] if is_averaged else model.get_parameter(name)
            assert torch.equal(tensor, expected)
    load_model(write(tmp_path, 4, (model, optimizer)), found, averaged=True)
    assert torch.equal(found[0].weight, model[0].weight)


def test_a_part_of_the_model_may_be_an_average_too(tmp_path):
    """A submodule named `average` is not the moving average of train.ema."""

    def build():
        model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "average": nn.Linear(2, 2)})
        return model, build_optimizer(parameter_groups(model["encoder"], 0.05), OptimConfig())

    model, optimizer = build()
    path = write(tmp_path, 3, (model, optimizer))
    for is_averaged in (False, True):
        found, _ = build()
        load_average(path, found, None)
        load_model(path, found, averaged=is_averaged)
        for name, tensor in model.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)
    (tmp_path / "other").mkdir()
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.get_parameter("average.weight").add_(1)
    path = write_averaged(tmp_path / "other", model, optimizer, average)
    for is_averaged in (False, True):
        load_average(path, found, MovingAverage(found, 0.9))
        load_model(path, found, averaged=is_averaged)
        own = average.tensors() if is_averaged else model.state_dict()
        assert torch.equal(found.get_parameter("average.weight"), own["average.weight"])


@pytest.mark.parametrize("has_one", [False, True])
def test_an_average_on_one_side_only_is_refused(tmp_path, has_one):
    model, optimizer, average = averaged()
    path = write_averaged(tmp_path, model, optimizer, average if has_one else None)
    with pytest.raises(UserError) as refused:
        load_average(path, model, None if has_one else average)
    there, now = ("a", "0") if has_one else ("no", "above 0")
    assert f"holds {there} moving average of the weights, but train.ema is {now}: " in str(
        refused.value
    )
    assert "\n" not in str(refused.value)


def test_an_average_of_other_weights_or_of_none_is_refused(tmp_path):
    path = write_averaged(tmp_path, *averaged())
    other = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(UserError, match=r"averaged weights do not fit this model: 2\.bias"):
        load_average(path, other, MovingAverage(other, 0.9))
    wide = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    with pytest.raises(UserError, match=r"average\.0\.weight has shape \[4, 3\], not \[4, 5\]"):
        load_average(path, wide, MovingAverage(wide, 0.9))
    (path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"model\.safetensors is not readable"):
        load_average(path, wide, MovingAverage(wide, 0.9))
