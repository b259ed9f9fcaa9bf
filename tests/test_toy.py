"""Training of an objective that is not part of the package: see `tests.toy`."""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from mae.config.loading import load_config
from mae.config.settings_help import describe_settings
from mae.data.training_data import open_training_data
from mae.objectives import registry
from mae.objectives.base import total_loss
from mae.pretrain import main
from mae.training.checkpoint.trained import build_objective
from mae.training.plan import make_plan
from mae.training.step import merge_carry
from tests.runs import (
    completed,
    exit_status,
    final_weights,
    forked,
    launched,
    metrics_of,
    run_and_kill,
    same_weights,
)
from tests.toy import implementation

STEPS = 20
SETTINGS = """\
output: {folder}/run
objective: toy
data: {{train: '{shards}', img_size: 16, workers: 0, mean: [0.5, 0.5, 0.5], std: [0.3, 0.3, 0.3]}}
model: {{latents: 4, beta: 0.5}}
optim: {{lr: 2.0e-3, warmup_epochs: 1}}
train: {{epochs: 3.05, batch_size: 8, checkpoint_every: 6}}
log: {{every: 1, panel_every: 10, wandb: false, health_every: 1}}
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")


def write_config(folder: Path, shards: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(SETTINGS.format(folder=folder, shards=shards))
    return path


def here(*words: str, is_double: bool = False) -> str:
    """Run in this process with one thread, as in a launched one; returns its output."""
    printed, threads = io.StringIO(), torch.get_num_threads()
    build = implementation.ToyImplementation.build
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
        if is_double:
            patch.setattr(
                implementation.ToyImplementation,
                "build",
                lambda self, config: build(self, config).double(),
            )
        torch.set_num_threads(1)
        try:
            assert main([*words]) == 0
        finally:
            torch.set_num_threads(threads)
    return printed.getvalue()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards):
    """Uninterrupted run in float32, evaluated on the training images."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder / "run", here(str(write_config(folder, shards)), f"data.val={shards}")


@pytest.fixture(scope="module")
def in_double(tmp_path_factory, shards):
    """Run folder of one process in float64, without accumulation."""
    folder = tmp_path_factory.mktemp("double")
    here(str(write_config(folder, shards)), is_double=True)
    return folder / "run"


def assert_close(one: Path, other: Path) -> None:
    """Compare weights, buffers and all losses to 1e-9."""
    ours, theirs = final_weights(one), final_weights(other)
    assert ours.keys() == theirs.keys() and "center" in ours
    for name, tensor in theirs.items():
        assert tensor.dtype == torch.float64, name
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-9)
    for row, expected in zip(metrics_of(one), metrics_of(other), strict=True):
        for key in ("loss", "loss_error", "loss_kl", "nats", "usage", "grad_norm"):
            assert row[key] == pytest.approx(expected[key], abs=1e-9), key


# Training


def test_it_learns_and_its_metrics_are_reported(undisturbed):
    folder, printed = undisturbed
    rows = metrics_of(folder)
    assert len(rows) == STEPS and rows[-1]["loss_error"] < 0.9 * rows[0]["loss_error"]
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_error"] + row["loss_kl"], rel=1e-6)
        assert 0 <= row["usage"] <= 1
    assert rows[0]["loss_kl"] == 0 < rows[-1]["loss_kl"]  # warmed up by progress
    assert "model   toy, 0.0 M parameters\n" in printed
    assert "  KL 0." in printed and "  usage " in printed and "R²" not in printed
    assert f"mae export {folder}" in printed and "mae finetune" not in printed


def test_training_equals_a_plain_loop(undisturbed, shards):
    """Plain loop with the same samples, noise, warm-up, optimizer and buffers."""
    config, data = open_training_data(load_config(undisturbed[0] / "config.yaml"))
    plan = make_plan(config, len(data.manifest), 1, 0)
    objective = build_objective(config)
    decayed = [p for p in objective.parameters() if p.ndim > 1]
    others = [p for p in objective.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.01)
    batches = data.batches(config, plan.sharding, (16, 16), 0, STEPS)
    for step, batch in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step - 1, config)
        assert isinstance(batch.images, torch.Tensor)
        noise = objective.draw(batch.images, batch.seeds)
        progress = torch.tensor((step - 1) / STEPS)
        error, kl = objective(batch.images, noise, progress).losses.values()
        with torch.no_grad():
            latents = objective.encode(batch.images).pooled["latents"]
        optimizer.zero_grad()
        (error + kl).backward()
        optimizer.step()
        objective.get_buffer("center").lerp_(latents.mean(dim=0), 0.1)
        objective.get_buffer("first").copy_(latents[0])
    for name, tensor in final_weights(undisturbed[0]).items():
        torch.testing.assert_close(objective.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_panels_and_health_are_the_defaults(undisturbed):
    folder, _ = undisturbed
    names = sorted(path.name for path in (folder / "panels").iterdir())
    assert names == [f"step-{step:09d}.png" for step in (10, STEPS)]
    with Image.open(folder / "panels" / names[-1]) as picture:
        assert picture.width > 3 * 128
    rows = [json.loads(line) for line in (folder / "health.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [7, 13, STEPS]
    assert all(row["width"] == 4 and 1 <= row["rankme"] <= 4 for row in rows)
    assert "r2" not in rows[0]


def test_killed_it_resumes_bit_for_bit(undisturbed, shards, tmp_path):
    config = str(write_config(tmp_path, shards))
    metrics = tmp_path / "run" / "metrics.jsonl"
    run_and_kill(launched("tests.toy", "pretrain", config), metrics, 9, is_launcher=False)
    assert 9 <= metrics_of(tmp_path / "run")[-1]["step"] < STEPS
    assert "resumed at step" in here(config)
    assert same_weights(final_weights(tmp_path / "run"), final_weights(undisturbed[0]))


def test_a_skipped_step_does_not_change_buffers(shards, tmp_path, monkeypatch):
    from mae.training import step as stepping
    from tests.toy.implementation import Toy

    seen = []
    whole, after = stepping.forward, Toy.after_step

    def forward(*arguments):
        output = whole(*arguments)
        poison = float("nan") if len(seen) == 4 else 1.0
        return output._replace(losses={key: one * poison for key, one in output.losses.items()})

    def watched(self, step):
        before = self.center.clone()
        after(self, step)
        seen.append((step.number, bool(step.skipped), torch.equal(before, self.center), step.seed))

    monkeypatch.setattr(stepping, "forward", forward)
    monkeypatch.setattr(Toy, "after_step", watched)
    assert main([str(write_config(tmp_path, shards)), "train.epochs=1.2", "train.seed=3"]) == 0
    assert [(number, skipped) for number, skipped, _, _ in seen] == [
        (number, number == 5) for number in range(1, 9)
    ]
    assert all(is_same == skipped and seed == 3 for _, skipped, is_same, seed in seen)


# Independence of the split of a batch


def test_accumulation_changes_nothing(in_double, shards, tmp_path):
    printed = here(str(write_config(tmp_path, shards)), "train.max_device_batch=2", is_double=True)
    assert "4 accumulated x 2 images" in printed
    assert_close(tmp_path / "run", in_double)


def test_two_processes_change_nothing(in_double, shards, tmp_path):
    done = completed(forked("tests.toy.double", str(write_config(tmp_path, shards))))
    assert done.returncode == 0, done.stderr
    assert "2 processes x 1 accumulated x 4 images" in done.stdout
    assert_close(tmp_path / "run", in_double)


def test_carry_is_summed_or_concatenated():
    parts = [
        {"count": torch.tensor([1, 2]), "rows": torch.tensor([[1.0], [2.0]])},
        {"count": torch.tensor([3, 0]), "rows": torch.tensor([[3.0], [4.0]])},
    ]
    merged = merge_carry(parts, {"count": "sum", "rows": "rows"}, Accelerator(cpu=True))
    assert merged["count"].tolist() == [4, 2]
    assert merged["rows"].flatten().tolist() == [1, 2, 3, 4]


# Compilation, dry run, stop


COMPILED = """
import torch
from mae.objectives import registry
from mae.objectives.base import total_loss
from mae.config.loading import load_config
from mae.training.checkpoint.trained import build_objective

registry.OBJECTIVES["toy"] = "tests.toy"
settings = ["data.img_size=16", "model.beta=0.5"]
objective = build_objective(load_config(None, settings, {"objective": "toy"}))
images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
noise = objective.draw(images, torch.arange(4))
torch._dynamo.config.error_on_recompile = True
for autocast in (False, True):
    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend="aot_eager")
    for progress in (0.0, 0.25, 0.9):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            start = torch.tensor(progress)
            expected, found = objective(images, noise, start), compiled(images, noise, start)
        torch.testing.assert_close(total_loss(found), total_loss(expected), rtol=1e-3, atol=1e-5)
        assert found.carry["first"].dtype == torch.float32  # an island in full precision
print("equal")
"""


def test_one_compiled_graph_for_any_progress():
    """Covers full-precision regions; in a subprocess, as jaxtyping's checks do not compile."""
    done = completed([sys.executable, "-c", COMPILED])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"]


def test_a_dry_run_describes_the_run(shards, tmp_path, capsys):
    assert main([str(write_config(tmp_path, shards)), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "model   toy, " in printed and "GFLOP an image" in printed and "step    " in printed
    assert not (tmp_path / "run").exists()


def test_averaged_weights_are_in_the_checkpoint(shards, tmp_path):
    from mae.training.checkpoint.trained import load_pretrained

    config = write_config(tmp_path, shards)
    assert main([str(config), "train.epochs=1", "train.ema=0.9", "optim.warmup_epochs=0"]) == 0
    stored = final_weights(tmp_path / "run")
    _, objective, _ = load_pretrained(tmp_path / "run")
    for name, parameter in objective.named_parameters():
        assert torch.equal(parameter, stored[f"average.{name}"])
        assert not torch.equal(parameter, stored[name])
    assert torch.equal(objective.get_buffer("center"), stored["center"])


def test_a_signal_stops_it_with_a_checkpoint(shards, tmp_path, monkeypatch):
    from tests.toy.implementation import Toy

    after = Toy.after_step

    def stop(self, step):
        after(self, step)
        if step.number == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Toy, "after_step", stop)
    assert main([str(write_config(tmp_path, shards))]) == 75
    assert exit_status(tmp_path / "run")["step"] == 4
    monkeypatch.setattr(Toy, "after_step", after)
    assert main([str(write_config(tmp_path, shards))]) == 0


def test_errors_in_its_settings_are_reported_with_all_others(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    assert main([str(config), "model.latnets=3", "model.mask_ratio=.5", "optim.lr=-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and any("did you mean latents?" in line for line in lines)


def test_its_defaults_override_the_cores_but_not_written_settings():
    base = {"objective": "toy", "data": {"img_size": 16}}
    assert load_config(None, [], base).optim.weight_decay == 0.01
    assert load_config(None, ["optim.weight_decay=0.2"], base).optim.weight_decay == 0.2
    assert load_config(None).optim.weight_decay == 0.05
    assert "  optim.weight_decay = 0.01\n      default of this objective" in describe_settings(
        "mae pretrain"
    )


def test_total_loss_is_the_sum_of_all(shards):
    objective = build_objective(load_config(None, ["data.img_size=16"], {"objective": "toy"}))
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    noise = objective.draw(images, torch.arange(2))
    output = objective(images, noise, torch.tensor(1.0))
    assert total_loss(output) == output.losses["error"] + output.losses["kl"]
