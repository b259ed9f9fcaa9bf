"""Runs tried out on real shards."""

import re

import pytest
import torch

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.data.training_data import open_training_data
from mae.networks.vit import parameter_groups
from mae.pretrain import main
from mae.training import dry_run as module
from mae.training import step as stepping
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import checkpoint_tensors
from mae.training.checkpoint.trained import build_objective
from mae.training.dry_run import checkpoint_bytes, dry_run
from mae.training.flops import flops_per_image
from mae.training.optim import build_optimizer
from mae.training.plan import TrainingSetup, build_accelerator, make_plan
from mae.training.step import forward
from tests.runs import write_config

IMAGES = 52


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, IMAGES, shard_size=20, size=(20, 24), extension="png")


@pytest.fixture
def tried(tmp_path, shards, monkeypatch):
    """`tried(setting, …)` tries the tiny run: (lines, objective)."""
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)

    def run(*settings: str, forward=forward, lines: list[str] | None = None):
        monkeypatch.setattr(stepping, "forward", forward)
        config, data = open_training_data(load_config(write_config(tmp_path, shards), settings))
        accelerator = build_accelerator(config.train)
        plan = make_plan(config, len(data.manifest), 1, 0)
        objective = build_objective(config)
        flops = flops_per_image(objective, config.data.in_chans)
        task = TrainingSetup(config, plan._replace(flops_per_image=flops), data)
        lines = [] if lines is None else lines
        for line in dry_run(task, objective, accelerator):
            lines.append(line)
        return lines, objective

    return run


def test_the_plan_is_printed_and_nothing_is_left(tried, tmp_path):
    lines, objective = tried("train.max_device_batch=4")
    text = "\n".join(lines)
    assert "8 = 1 process x 2 accumulated x 4 images on cpu, fp32" in text
    assert "4 epochs = 26 steps, lr 0.002" in text
    assert "sizes   encoder 0.0 M, decoder 0.0 M; " in text
    assert "GFLOP an image; 208 samples in all" in text
    assert re.search(r"read    [\d,]+ images/s with 0 workers", text)
    assert re.search(r"step    \S+ s = [\d,]+ images/s, loss [12]\.", text)
    assert re.search(r"time    about \d+:\d\d: (data loading|the step) is the bottleneck", text)
    assert not (tmp_path / "run").exists()
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_what_is_known_comes_before_anything_is_timed(tried, monkeypatch):
    def no_time(*_):
        raise UserError("timed")

    known: list[str] = []
    monkeypatch.setattr(module, "time_loader", no_time)
    with pytest.raises(UserError, match="timed"):
        tried(lines=known)
    assert known[-1].startswith("disk") and any("sizes   encoder" in line for line in known)


def test_the_objective_is_not_trained(tried, tmp_path, shards):
    _, objective = tried()
    fresh = build_objective(load_config(write_config(tmp_path, shards)))
    for (name, tried_out), new in zip(
        objective.state_dict().items(), fresh.state_dict().values(), strict=True
    ):
        assert torch.equal(tried_out, new), name


def test_a_run_that_is_there_keeps_every_byte(tried, tmp_path, shards):
    run = Run(tmp_path / "run")
    run.open(load_config(write_config(tmp_path, shards)))
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    tried()
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}


def test_a_foreign_folder_is_refused(shards, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    assert main([str(write_config(tmp_path, shards)), "--dry-run"]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err


def test_a_disk_without_room_for_the_checkpoints_is_refused(tried):
    with pytest.raises(
        UserError, match=r"needs .* GB for checkpoints \(train.keep_last = 10000000"
    ):
        tried("train.keep_last=10000000000")


def test_a_checkpoint_is_as_large_as_foretold(tmp_path, shards):
    config = load_config(write_config(tmp_path, shards))
    objective = build_objective(config)
    optimizer = build_optimizer(
        parameter_groups(objective, config.optim.weight_decay), config.optim
    )
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    counters = 4 * sum(parameter.requires_grad for parameter in objective.parameters())
    assert (
        checkpoint_tensors(objective, optimizer).num_bytes == checkpoint_bytes(objective) + counters
    )


def scarce(limit: int):
    """A device on which `limit` images fit."""

    def limited(learner, batch, progress):
        if len(batch.samples) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(learner, batch, progress)

    return limited


def test_out_of_memory_names_the_setting_and_a_value_to_try(tried):
    with pytest.raises(UserError, match=r"^train.max_device_batch: 8 images .* to 4 or less"):
        tried(forward=scarce(4))
    lines, _ = tried("train.max_device_batch=4", forward=scarce(4))
    assert lines
    with pytest.raises(UserError, match="not even one image fits"):
        tried("train.max_device_batch=1", forward=scarce(0))


def test_other_errors_of_a_step_are_not_explained_away(tried):
    def broken(learner, batch, progress):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        tried(forward=broken)


def test_the_slower_of_data_and_step_decides(tried, monkeypatch):
    slow = module.LoaderTiming
    monkeypatch.setattr(
        module, "LoaderTiming", lambda batch, images, bad: slow(batch, images / 1e6, bad)
    )
    said = tried()[0][-1]
    assert (
        "data loading is the bottleneck (what would help: " in said and "mae pack --resize" in said
    )
    monkeypatch.setattr(
        module, "LoaderTiming", lambda batch, images, bad: slow(batch, images * 1e6, bad)
    )
    assert "the step is the bottleneck" in tried()[0][-1]
