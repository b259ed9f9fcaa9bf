"""Folders of diffusers: what an export holds, and runs that start from one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from mae.cli import main
from mae.data.opening import training_images
from mae.data.views import CentredViews
from mae.networks.latent_diffusion import LdmSettings
from mae.objectives.kl.diffusers import other_settings
from mae.objectives.registry import implementation
from tests.objectives.autoencoders.recipes import train, words
from tests.objectives.autoencoders.small import build, pictures, small_config
from tests.runs import final_weights
from tests.untrained import untrained_run

SMALL = {"stages": 2, "depth": 1}
LIBRARY: Any = AutoencoderKL


def saved(folder: Path, **changes: Any) -> Path:
    """Folder of a random AutoencoderKL with the networks of `SMALL`."""
    torch.manual_seed(3)
    settings: Any = {**LdmSettings(3, 4, 8, 2, 1).model_settings(), **changes}
    LIBRARY(**settings).save_pretrained(folder)
    return folder


def exported(run: Path, out: Path) -> dict[str, Any]:
    """config.json of an export of `run`."""
    words = ["export", str(run), str(out), "--format", "diffusers", "--images", "noise"]
    assert main(words) == 0
    return json.loads((out / "config.json").read_text())


def test_an_export_has_the_scale_of_its_own_latents(shards, tmp_path, in_process, capsys):
    small = small_config("kl", channels=3, **SMALL)
    data = small.data.model_copy(update={"train": (shards,)})
    averaged = small.train.model_copy(update={"ema": 0.5})
    config = small.model_copy(update={"data": data, "train": averaged})
    written = exported(untrained_run(tmp_path / "run", config), tmp_path / "out")
    views = CentredViews(training_images(config), (16, 16), data.crop_pct)
    images = torch.stack([views.view(number) for number in range(len(views.images.manifest))])
    pixels = (images / 255 - 0.4) / 0.3
    with torch.no_grad():
        latents = LIBRARY.from_pretrained(tmp_path / "out").encode(pixels).latent_dist
    mean, power = latents.mean.mean((0, 2, 3)), (latents.mean**2 + latents.var).mean((0, 2, 3))
    assert written["latents_mean"] == pytest.approx(mean.tolist(), rel=1e-4)
    assert written["latents_std"] == pytest.approx((power - mean**2).sqrt().tolist(), rel=1e-4)
    overall = (power.mean() - mean.mean() ** 2).sqrt().item()
    assert written["scaling_factor"] == pytest.approx(1 / overall, rel=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"latents of {len(images)} training images, by these weights" in " ".join(card.split())


def test_without_training_images_the_scale_is_that_of_training(
    finished, tmp_path, in_process, capsys
):
    words = ["export", str(finished("kl")), str(tmp_path / "plain"), "--images", "noise"]
    assert main([*words, "--format", "plain"]) == 0
    config = exported(tmp_path / "plain", tmp_path / "out")
    moments = final_weights(finished("kl"))["bottleneck.moments"]
    count, total, square = moments.view(3, -1)
    mean = total.sum() / count.sum()
    std = (square.sum() / count.sum() - mean**2).sqrt()
    assert config["scaling_factor"] == pytest.approx(1 / std.item())
    assert config["latents_mean"] == pytest.approx((total / count).tolist())
    expected = (square / count - (total / count) ** 2).sqrt()
    assert config["latents_std"] == pytest.approx(expected.tolist())
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "measured in training: none can be opened here" in card


def test_an_untrained_export_says_that_nothing_was_measured(tmp_path, in_process, capsys):
    run = untrained_run(tmp_path / "run", small_config("kl", **SMALL))
    assert exported(run, tmp_path / "out")["scaling_factor"] == 1
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "no training step has measured" in card
    assert "normalise images by mean 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{}, {"use_quant_conv": False, "use_post_quant_conv": False}])
def test_a_run_starts_from_a_folder_and_computes_the_same(changes, tmp_path):
    folder = saved(tmp_path / "pipeline" / "vae", **changes)
    config = small_config("kl", channels=3, **SMALL)
    init = config.init.model_copy(update={"from_": str(folder.parent)})
    model = build("kl", channels=3, **SMALL)
    initial = implementation("kl").load_initial(model, config.model_copy(update={"init": init}))
    assert initial is not None and ("quant_conv" in " ".join(initial.lines)) == bool(changes)
    theirs, pixels = LIBRARY.from_pretrained(folder).eval(), model.normalize(pictures(3, 3))
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(model.latents(pixels), expected)
        made = model.decoder(model.from_latent(expected))
        torch.testing.assert_close(made, theirs.decode(expected).sample)


def test_a_trained_decoder_keeps_the_folders_encoder(shards, tmp_path, in_process, capsys):
    scale = {"scaling_factor": 0.36, "shift_factor": 0.12}
    scale |= {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [1.0, 2.0, 3.0, 4.0]}
    folder = saved(tmp_path / "vae", **scale)
    given = [f"init.from={folder}", "model.decoder_only=true", "train.ema=0.5"]
    printed = train("kl", shards, tmp_path / "run", *given)
    assert "tensors from" in printed
    tensors = final_weights(tmp_path / "run")
    theirs = LIBRARY.from_pretrained(folder).state_dict()
    for name, tensor in theirs.items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, tensors[name])
    assert not torch.equal(theirs["decoder.conv_in.weight"], tensors["decoder.conv_in.weight"])
    assert not any(name.startswith("average.encoder") for name in tensors)
    written = exported(tmp_path / "run", tmp_path / "out")
    assert {key: written[key] for key in scale} == scale
    code = (tmp_path / "out" / "README.md").read_text()
    assert ".mode() - model.config.shift_factor) * model.config.scaling_factor" in code


def test_a_second_stage_adds_or_drops_the_critic(shards, tmp_path, capsys):
    first = untrained_run(tmp_path / "first", small_config("kl", channels=3, **SMALL))
    given = [f"init.from={first}", "model.decoder_only=true"]
    printed = train("kl", shards, tmp_path / "second", *given)
    assert "critic." in printed and "as initialised: not in the source" in printed
    ours, theirs = final_weights(tmp_path / "second"), final_weights(first)
    assert any(name.startswith("critic.") for name in ours)
    for name, tensor in ours.items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, theirs[name])
    dropped = [f"init.from={tmp_path / 'second'}", "model.adv=0", "model.adv_start=0.5"]
    dropped += ["model.critic_width=64"]
    printed = train("kl", shards, tmp_path / "third", *dropped)
    assert "skipped: " in printed and "this model lacks them" in printed
    tensors = final_weights(tmp_path / "third")
    assert not any(name.startswith(("critic.", "source_scale")) for name in tensors)


def damaged(folder: Path) -> Path:
    """Folder whose tensors are not those of its config."""
    saved(folder)
    config = json.loads((folder / "config.json").read_text())
    config["layers_per_block"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    return folder


ONE_LEVEL = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
}
CASES = [
    (dict(block_out_channels=(16, 32, 64)), [], "set model.width=16 model.stages=2"),
    (dict(block_out_channels=(8, 8, 32)), [], "(no settings make these)"),
    (dict(latent_channels=16), [], "latent_channels 16 (set model.latent_dim=16)"),
    (dict(layers_per_block=2), [], "layers_per_block 2 (set model.depth=2)"),
    (dict(in_channels=1, out_channels=1), [], "in_channels 1 (set data.in_chans=1)"),
    (dict(mid_block_add_attention=False), [], "(only True is supported)"),
    (dict(block_out_channels=(8,), **ONE_LEVEL), [], "block_out_channels [8] (only lists"),
    (
        dict(down_block_types=("DownEncoderBlock2D",) + ("AttnDownEncoderBlock2D",) * 2),
        [],
        "AttnDownEncoderBlock2D'] (only ['DownEncoderBlock2D', ",
    ),
]


@pytest.mark.parametrize(("changes", "settings", "message"), CASES, ids=str)
def test_other_networks_are_refused_with_the_remedy(
    changes, settings, message, shards, tmp_path, capsys
):
    folder = saved(tmp_path / "vae", **changes)
    assert main_of(shards, tmp_path / "run", f"init.from={folder}", *settings) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("widths", [[], None, 8, ["8", 16]], ids=str)
def test_widths_that_are_no_list_of_numbers_are_refused_in_words(widths, tmp_path):
    (problem,) = other_settings({"block_out_channels": widths}, small_config("kl", **SMALL))
    assert "only lists of two widths or more" in problem


def test_a_folder_with_missing_tensors_is_refused(shards, tmp_path, capsys):
    folder = damaged(tmp_path / "vae")
    assert main_of(shards, tmp_path / "run", f"init.from={folder}", "model.depth=2") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "is missing or does not fit" in line and not (tmp_path / "run").exists()


def main_of(shards: str, output: Path, *settings: str) -> int:
    from mae.pretrain import main as pretrain

    return pretrain(words("kl", shards, output, *settings))


def test_sample_refuses_in_words(tmp_path, capsys):
    run = untrained_run(tmp_path / "run", small_config("kl", **SMALL))
    assert main(["sample", str(run), "--out", str(tmp_path / "s.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "do not follow N(0, 1)" in line and "would be noise" in line
