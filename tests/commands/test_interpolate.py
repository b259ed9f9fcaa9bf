"""`mae interpolate` on image files and shards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.cli import main
from mae.data.views import evaluation_view
from mae.decoding.decode import decode
from mae.pretrained_weights.opened import open_model
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("vae") / "run", small_config("vae"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, 40, shard_size=20, size=16, channels=1, extension="png")


@pytest.fixture
def files(tmp_path, make_image):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(make_image(number, 16, 1)).save(path)
    return [str(path) for path in paths]


def test_the_ends_are_the_decoded_images(run, files, tmp_path, capsys):
    out = tmp_path / "i.png"
    words = ["interpolate", str(run), *files, "--steps", "5", "--out", str(out)]
    assert main([*words, "--files", str(tmp_path / "f")]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("path  great circle between latents of ")
    assert lines[-2:] == [str(tmp_path / "f"), str(out)]
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["path"] == "sphere" and report["steps"] == 5 and len(report["files"]) == 10
    opened = open_model(run)
    model = opened.objective
    image = decode(Path(files[2]).read_bytes(), "png", 1, 8)
    image = evaluation_view(image, (16, 16), opened.config)
    with torch.no_grad():
        own = model.decode(model.latents(image[None]))[0, 0]  # pyrefly: ignore
    with Image.open(tmp_path / "f" / "pair-001-step-000.png") as picture:
        assert np.abs(np.asarray(picture) - 255 * own.numpy()).max() < 1
    mse = (own - image[0].float() / 255).square().mean()
    assert report["pairs"][1]["psnr"][0] == pytest.approx(-10 * mse.log10().item(), abs=1e-3)
    assert 0 < report["pairs"][1]["angle_degrees"] < 180


def test_samples_are_named_by_key_or_number(run, shards, tmp_path, capsys):
    made = []
    for name, pair in (("a", ["sample-00021", "3"]), ("b", ["21", "sample-00003"])):
        out = tmp_path / f"{name}.html"
        words = ["interpolate", str(run), *pair, "--shards", shards, "--out", str(out)]
        assert main([*words, "--path", "line"]) == 0, capsys.readouterr().err
        made.append(json.loads(out.with_suffix(".json").read_text()))
        assert "straight line" in capsys.readouterr().out and out.stat().st_size > 1000
    assert main([*words[:6], "--steps", "40", "--out", str(tmp_path / "c.html")]) == 0
    page = (tmp_path / "c.html").read_text()
    assert "12 of 40 steps are shown" in page and page.count("<img") == 14
    assert made[0]["pairs"] == made[1]["pairs"] and made[0]["pairs"][0]["first"] == "sample-00021"


def test_middles_are_judged_beside_straight_lines_and_cross_fades(run, shards, tmp_path, capsys):
    out = tmp_path / "i.png"
    words = ["interpolate", str(run), "0", "1", "--shards", shards, "--out", str(out)]
    words += ["--compare", shards, "--train", shards, "--judged", "8", "--workers", "0"]
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    judged = json.loads(out.with_suffix(".json").read_text())["judged"]
    assert list(judged["rows"]) == [
        "real images",
        "middles of paths",
        "middles of straight lines",
        "cross-fades",
        "decoded images",
    ]
    assert judged["images_per_comparison"] == 8 and judged["train_images"] == 40
    assert "note: only 8 images per comparison" in said.out
    assert "40 of the test images are in the training images too" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "A B: 1 images are no pairs: name two for each path"),
        (["a.png", "b.png", "--steps", "2"], "--steps: 2 has nothing between the ends: 3 or more"),
        (["a.tar", "b.tar"], "a.tar: is no image file; images of shards are named by key or"),
        (["a.png", "gone.png"], "a.png: cannot be read: No such file or directory"),
        (["40", "1", "--shards", "{shards}"], "--shards: no image has the key 40, nor is it a"),
        (["0", "1", "--shards", "gone.tar"], "--shards: "),
        (["a.png", "b.png", "--judge", "x"], "--judge: needs --compare SHARDS, the real images"),
        (["a.png", "b.png", "--out", "x.gif"], "--out: x.gif must end in .png or .html"),
    ],
)
def test_wrong_use_is_one_line(run, shards, words, message, capsys):
    assert main(["interpolate", str(run), *(word.format(shards=shards) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mae: {message}")
    assert not (run / "interpolation.png").exists()


def test_the_own_encoder_is_no_judge(run, shards, capsys):
    words = ["0", "1", "--shards", shards, "--compare", shards, "--judge", str(run)]
    assert main(["interpolate", str(run), *words]) == 2
    assert "is the encoder of the judged model" in capsys.readouterr().err


def test_codes_are_refused(tmp_path, files, capsys):
    codes = untrained_run(tmp_path / "codes", small_config("vqvae"))
    assert main(["interpolate", str(codes), *files]) == 2
    assert "its latents are codes, and there is nothing between two" in capsys.readouterr().err
