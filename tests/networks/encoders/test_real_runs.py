"""Every class and set of options through the command line: trained, resumed, exported for timm."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import mae
from mae.cli import main
from tests.networks.encoders.option_sets import SETS, tiny_arguments
from tests.runs import final_weights, metrics_of, same_weights, write_config

STEPS, SAVED = 4, 2
IMAGES = torch.randint(
    0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def pretrain(folder: Path, shards: str, name: str) -> Path:
    """Run, or resume, four steps; the run folder."""
    arguments = ", ".join(f"{key}: {value}" for key, value in tiny_arguments(name).items())
    words = [str(write_config(folder, shards)), f"model.encoder={name}"]
    words += [f"model.encoder_kwargs={{{arguments}}}", "optim.warmup_epochs=0.2"]
    assert (
        main(["pretrain", *words, f"train.epochs={STEPS * 8 / 52}", "train.checkpoint_every=2"])
        == 0
    )
    return folder / "run"


def as_killed(run: Path, folder: Path) -> None:
    """Copy a run as it was after its first checkpoint and a step more."""
    folder.mkdir()
    copied = Path(shutil.copytree(run, folder / "run"))
    settings = copied / "config.yaml"
    settings.write_text(settings.read_text().replace(str(run), str(copied)))
    for checkpoint in (copied / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > SAVED:
            shutil.rmtree(checkpoint)
    rows = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_text("".join(rows[: SAVED + 1]))


def numbers(run: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in metrics_of(run)]


@pytest.mark.parametrize("name", SETS)
def test_a_run_resumes_in_the_same_bits_and_is_exported_for_timm(
    shards, tmp_path, in_process, capsys, name
):
    run = pretrain(tmp_path, shards, name)
    as_killed(run, tmp_path / "killed")
    capsys.readouterr()
    resumed = pretrain(tmp_path / "killed", shards, name)
    assert f"resumed at step {SAVED}" in capsys.readouterr().out
    assert len(numbers(run)) == STEPS and numbers(resumed) == numbers(run)
    found: dict[str, Tensor] = final_weights(resumed)
    assert same_weights(found, final_weights(run))

    export = tmp_path / "export"
    assert main(["export", str(run), str(export), "--images", "noise"]) == 0
    theirs: Any = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    assert all(torch.equal(found[f"encoder.{k}"], one) for k, one in theirs.state_dict().items())
    ours: Any = mae.load(run).objective
    with torch.no_grad():
        pixels = ours.normalize_images(IMAGES)
        assert torch.equal(theirs.forward_features(pixels), ours.encoder.forward_features(pixels))
        pooled = ours.encode(IMAGES).pooled
        assert torch.equal(theirs(pixels), pooled.get("cls", pooled["mean"]))
