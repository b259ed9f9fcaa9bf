"""Runs on arrays of floats (data.bits=32), such as the latents of another model."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae.base.errors import UserError
from mae.cli import main
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.data.opening import training_images
from mae.data.statistics import channel_statistics
from mae.data.views import CentredViews
from mae.training.checkpoint.trained import load_pretrained
from tests.objectives.autoencoders.recipes import RECIPES, stopped_after, train
from tests.runs import TINY, final_weights, metrics_of, same_weights

CHANNELS, SIDE = 4, 8
MEANS, STDS = np.array([3.0, -2.0, 0.5, 40.0]), np.array([0.5, 2.0, 1.0, 10.0])
FLOATS = [
    "data.bits=32",
    f"data.in_chans={CHANNELS}",
    f"data.img_size={SIDE}",
    "data.own_statistics=true",
]
OF = {
    "ae": ["model.stages=1", "model.latent=map", "model.latent_dim=2"],
    "vae": ["model.stages=1", "model.latent_dim=8"],
}


def smooth_map(number: int) -> np.ndarray:
    """Smooth map [c h w] of channels far outside [0, 1]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    waves = [np.sin(3 * (a * x + b * y + c)) for a, b, c in rng.normal(size=(CHANNELS, 3))]
    return (MEANS[:, None, None] + STDS[:, None, None] * np.stack(waves)).astype(np.float32)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.fixture(scope="module")
def maps(tmp_path_factory, make_tar):
    """Shard of 40 float maps with labels; a bad one has a number that is not finite."""
    folder = tmp_path_factory.mktemp("maps")
    members = []
    for number in range(40):
        values = smooth_map(number).astype(np.float16 if number % 2 else np.float32)
        if number == 7:
            values[0, 0, 0] = np.nan
        members += [
            (f"{number:03d}.cls", str(number % 2).encode()),
            (f"{number:03d}.npy", npy(values)),
        ]
    make_tar(folder / "a.tar", members)
    return str(folder / "a.tar")


def opened(run: Path) -> tuple[Config, Any, Any]:
    """Settings, model and state of a run."""
    return load_pretrained(run)


def train_mae(maps: str, out: Path, *settings: str, code: int = 0) -> None:
    """A tiny MAE on the maps, one patch a pixel pair."""
    config = out.with_suffix(".yaml")
    config.write_text(TINY.replace(", mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]", ""))
    words = [str(config), f"output={out}", f"data.train={maps}", *FLOATS, "model.patch_size=2"]
    words += ["train.epochs=1.6", "train.precision=fp32", *settings]
    assert main(["pretrain", *words]) == code


@pytest.fixture(scope="module")
def runs(maps, tmp_path_factory):
    """Finished runs of 8 steps, evaluated on the same maps, with panels."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in OF.items():
        evaluated = [f"data.val={maps}", "log.health_every=1", "log.panel_every=4"]
        train(name, maps, folder / name, *FLOATS, *settings, *evaluated)
    train_mae(maps, folder / "mae", f"data.val={maps}", "log.health_every=1", "log.panel_every=4")
    return folder


def test_views_are_the_normalised_numbers_and_statistics_those_of_numpy(runs, maps):
    config, model, _ = opened(runs / "ae")
    usable = [
        smooth_map(n).astype(np.float16 if n % 2 else np.float32) for n in range(40) if n != 7
    ]
    whole = np.stack(usable).astype(np.float64)
    np.testing.assert_allclose(config.data.mean, whole.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(config.data.std, whole.std((0, 2, 3)), atol=1e-5)
    images = training_images(config)
    view = CentredViews(images, (SIDE, SIDE), 1.0).view(3)
    mean, std = (np.array(one)[:, None, None] for one in (config.data.mean, config.data.std))
    expected = (smooth_map(3).astype(np.float16).astype(np.float64) - mean) / std
    np.testing.assert_allclose(view.numpy(), expected, atol=1e-5)
    assert torch.equal(model.normalize(view[None]), view[None])


@pytest.mark.parametrize("name", ["ae", "vae", "mae"])
def test_runs_learn_and_name_the_bad_array(name, runs):
    rows = metrics_of(runs / name)
    assert rows[-1]["loss"] < rows[0]["loss"] and np.isfinite(rows[-1]["loss"])
    (bad,) = (runs / name / "quarantine.jsonl").read_text().splitlines()[:1]
    assert "key 007" in bad and "not finite" in bad
    health = json.loads((runs / name / "health.jsonl").read_text().splitlines()[-1])
    if name == "mae":
        assert health["r2"] < 1 and abs(health["r2_patch_mean"]) < 1
    else:
        # In standard deviations: predicting the mean image is little better than the mean, 0 dB.
        assert -0.5 < health["psnr_mean_image"] < 3
        assert health["psnr_pca"] > health["psnr_mean_image"]
    assert list((runs / name / "panels").glob("*.png"))


@pytest.mark.parametrize("name", ["vae", "mae"])
def test_a_stopped_run_ends_in_the_same_weights(name, runs, maps, tmp_path):
    def go(code: int) -> None:
        if name == "mae":
            train_mae(maps, tmp_path / "run", code=code)
        else:
            train(name, maps, tmp_path / "run", *FLOATS, *OF[name], code=code)

    with stopped_after(3):
        go(75)
    go(0)
    assert same_weights(final_weights(tmp_path / "run"), final_weights(runs / name))


@pytest.mark.parametrize("name", ["ae", "mae"])
def test_reconstructions_are_numbers_beyond_0_and_1(name, runs, maps, tmp_path, capsys):
    config, model, _ = opened(runs / name)
    images = torch.stack(
        [CentredViews(training_images(config), (SIDE, SIDE), 1.0).view(n) for n in range(4)]
    )
    made = model.reconstruct(images, model.draw(images, torch.arange(4)))
    assert made.pasted.min() < -0.1 and made.pasted.isfinite().all()
    words = ["reconstruct", str(runs / name), maps, "--out", str(tmp_path / "r.html")]
    assert main([*words, "--count", "3"]) == 0
    assert "007" in capsys.readouterr().err
    page = (tmp_path / "r.html").read_text()
    if name != "mae":
        assert "for a peak of one standard deviation" in page


@pytest.mark.parametrize(
    ("name", "form"),
    [("ae", "torch"), ("vae", "plain"), ("mae", "timm")],
)
def test_exports_read_floats_by_the_code_that_they_print(name, form, runs, tmp_path, in_process):
    out = tmp_path / "out"
    assert main(["export", str(runs / name), str(out), "--format", form]) == 0
    card = (out / "README.md").read_text()
    assert "channel(s) of floats" in card


def test_other_commands_take_floats(runs, maps, tmp_path, capsys):
    assert main(["verify", maps, "--workers", "0"]) == 1
    assert "key 007" in capsys.readouterr().out
    assert main(["index", maps, "--stats"]) == 0
    assert "data.bits=32" in capsys.readouterr().out
    out = tmp_path / "b.png"
    assert main(["inspect-batch", str(runs / "mae"), "2", "--out", str(out)]) == 0
    words = ["knn", str(runs / "mae"), "--train", maps, "--test", maps, "--baselines"]
    assert main([*words, "--out", str(tmp_path / "k.json")]) == 0
    assert main(["latents", str(runs / "ae"), maps, str(tmp_path / "again"), "--workers=0"]) == 0


@pytest.mark.parametrize("command", ["sample", "interpolate", "edit"])
def test_generated_floats_are_refused_in_one_line(command, runs, maps, capsys):
    words = {
        "sample": [],
        "interpolate": ["a.png", "b.png"],
        "edit": [maps, "--direction", maps, "--attribute", "1"],
    }[command]
    assert main([command, str(runs / "vae"), *words]) == 2
    assert "vae: was trained on floats (data.bits=32)" in capsys.readouterr().err


def faults(name: str, *settings: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(RECIPES / f"{name}.yaml", ["data.train=x", *settings])
    return str(caught.value).splitlines()


def test_settings_that_make_no_sense_are_refused_all_at_once():
    wrong = ["data.scale=[0.3,1]", "data.crop_on_device=true", "data.crop_pct=0.5"]
    lines = faults("ae", *FLOATS[:3], *wrong, "model.stages=1")
    text = "\n".join(lines)
    assert "data.bits=32 does not resize images" in text and "data.crop_on_device" in text
    assert "data.scale" in text and "data.crop_pct" in text
    assert "4 channels" not in text or "own_statistics" in text
    text = "\n".join(faults("kl", *FLOATS))
    assert "data.bits: 32 (floats) is for mae, ae, vae, beta_vae, ladder, not for kl" in text
    three = ["data.bits=32", "data.img_size=8", "model.stages=1"]
    usual = ["data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"]
    (line,) = faults("ae", *three, *usual)
    assert "data.mean: is ImageNet's, of pixels: for floats set data.own_statistics=true" in line


def test_a_normalisation_that_does_not_fit_is_refused(maps, tmp_path, capsys):
    given = [f"data.mean={MEANS.tolist()}", "data.std=[0.5,0.5,0.5,0.5]"]
    train("ae", maps, tmp_path / "run", *FLOATS[:3], *OF["ae"], *given, code=2)
    assert "channel 3 has a standard deviation of" in capsys.readouterr().err


def test_images_and_floats_are_not_taken_for_each_other(maps, shards):
    config = load_config(RECIPES / "ae.yaml", [f"data.train={maps}", "data.img_size=8"])
    with pytest.raises(UserError, match=r"holds floats, but data\.bits is 8: data\.bits=32"):
        channel_statistics(training_images(config))
    floats = ["data.bits=32", "data.own_statistics=true", "data.img_size=8"]
    config = load_config(RECIPES / "ae.yaml", [f"data.train={shards}", *floats])
    with pytest.raises(UserError, match=r"8 bits a channel, but data\.bits=32 reads floats"):
        channel_statistics(training_images(config))
