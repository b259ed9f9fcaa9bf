import json

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
from mae.objectives.registry import OBJECTIVES, declaration
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("vae") / "run", small_config("vae"))


def test_the_same_seed_draws_the_same_images(run, tmp_path, capsys):
    for name, options in (
        ("a", ["--count", "3"]),
        ("b", ["--count", "20"]),
        ("c", ["--count", "3", "--seed", "1"]),
    ):
        out = ["--out", str(tmp_path / f"{name}.png"), "--files", str(tmp_path / name)]
        assert main(["sample", str(run), *options, *out]) == 0
        assert capsys.readouterr().out.splitlines() == [out[3], out[1]]
    files = {name: sorted((tmp_path / name).iterdir()) for name in "abc"}
    assert [len(files[name]) for name in "abc"] == [3, 20, 3]
    read = {name: [path.read_bytes() for path in files[name][:3]] for name in "abc"}
    assert read["a"] == read["b"] and read["a"] != read["c"]
    with Image.open(files["a"][0]) as picture:
        assert picture.size == (16, 16) and picture.mode == "L"
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["seed"] == 0 and report["count"] == 3 and report["objective"] == "vae"
    assert report["files"] == [path.name for path in files["a"]]


def test_the_picture_lies_in_the_run_unless_asked_otherwise(run, tmp_path, capsys):
    assert main(["sample", str(run), "--count", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "samples.png")
    with Image.open(run / "samples.png") as picture:
        assert np.asarray(picture).std() > 0
    page = tmp_path / "s.html"
    assert main(["sample", str(run), "--count", "2", "--out", str(page)]) == 0
    assert page.read_text().count("<img") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "65"], "--count: the picture shows at most 64 images; add --files DIR for 65"),
        (["--out", "x.jpg"], "--out: x.jpg must end in .png or .html"),
    ],
)
def test_wrong_use_is_one_line(run, options, message, capsys):
    assert main(["sample", str(run), *options]) == 2
    assert capsys.readouterr().err == f"mae: {message}\n"


def test_no_folder_with_content_is_overwritten(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("kept")
    assert main(["sample", str(run), "--files", str(tmp_path / "full")]) == 2
    assert "is not empty; nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a"]


def test_a_lower_temperature_draws_images_that_differ_less(run, tmp_path, capsys):
    made = {}
    for temperature in ("1", "0.1"):
        out = tmp_path / f"{temperature}.png"
        words = [
            "sample",
            str(run),
            "--count",
            "8",
            "--temperature",
            temperature,
            "--out",
            str(out),
        ]
        assert main(words) == 0, capsys.readouterr().err
        assert json.loads(out.with_suffix(".json").read_text())["temperature"] == float(temperature)
        made[temperature] = out.read_bytes()
    assert made["1"] != made["0.1"]


def test_objectives_without_samples_are_refused(tmp_path, capsys):
    ae = untrained_run(tmp_path / "ae", small_config("ae"))
    assert main(["sample", str(ae)]) == 2
    lack = "objective ae has no samples; mae sample needs them; objectives with them: "
    names = [name for name in OBJECTIVES if "samples" in declaration(name).offers]
    assert {"vae", "beta_vae", "prior"} <= set(names) and "ae" not in names
    assert capsys.readouterr().err == f"mae: {ae}: {lack}{', '.join(names)}\n"
    assert not (ae / "samples.png").exists()


@pytest.mark.parametrize("name", ["vae", "beta_vae", "ladder"])
def test_latents_without_a_prior_are_not_sampled(name, tmp_path, capsys):
    free = untrained_run(tmp_path / "free", small_config(name, beta=1e-6))
    assert main(["sample", str(free)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mae: {free}: trained with model.beta=1e-06: its latents do not follow")
    assert not (free / "samples.png").exists()


def test_samples_are_judged_beside_trivial_models(run, tmp_path, make_shards, capsys):
    real = make_shards(tmp_path / "real", 36, size=16, channels=1, extension="png")
    train = make_shards(tmp_path / "train", 20, size=16, channels=1, extension="png")
    out, files = tmp_path / "s.png", tmp_path / "f"
    words = ["sample", str(run), "--n", "3", "--out", str(out), "--compare", real]
    assert main([*words, "--train", train, "--files", str(files)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    paths = [str(files), str(out), str(tmp_path / "s-nearest.png")]
    assert said.out.splitlines()[-3:] == paths and len(list(files.iterdir())) == 3
    judged = json.loads(out.with_suffix(".json").read_text())["judged"]
    assert list(judged["rows"]) == ["real images", "samples", "Gaussian of pixels"]
    assert judged["images_per_comparison"] == 18 and judged["judge"].startswith("fixed random")
    assert judged["rows"]["samples"]["one_nn_accuracy"] > 0.8  # nothing was learned
    assert "20 of the test images are in the training images too" in said.err
    with Image.open(tmp_path / "s-nearest.png") as picture:
        assert np.asarray(picture).std() > 0
    again = tmp_path / "again.png"
    words = ["sample", str(run), "--count", "1", "--out", str(again), "--compare", real]
    assert main([*words, "--train", train]) == 0
    assert json.loads(again.with_suffix(".json").read_text())["judged"] == judged


def test_another_encoder_may_judge_and_training_images_may_be_gone(
    run, tmp_path, make_shards, capsys
):
    judge = untrained_run(tmp_path / "ae", small_config("ae"))
    real = make_shards(tmp_path / "real", 16, size=20, channels=1)
    out = tmp_path / "s.html"
    words = ["sample", str(run), "-n", "1", "--out", str(out), "--compare", real]
    assert main([*words, "--judge", str(judge)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "no baselines and no nearest training images" in said.err
    judged = json.loads(out.with_suffix(".json").read_text())["judged"]
    assert list(judged["rows"]) == ["real images", "samples"] and judged["judge"] == str(judge)
    assert judged["train_images"] is None and not (tmp_path / "s-nearest.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "x"], "--judge: needs --compare SHARDS, the real images"),
        (["--train", "x"], "--train: needs --compare SHARDS, the real images"),
        (["--compare", "{real}"], "--compare: 15 images are too few: at least 16"),
        (["--compare", "{more}", "--judged", "3"], "--judged: 3 images are too few: at least 8"),
        (
            ["--compare", "{more}", "--judge", "{run}"],
            "--judge: {run} is the encoder of the judged",
        ),
        (["--compare", "{more}", "--judge", "{colour}"], "--judge: {colour} takes 3 channels"),
    ],
)
def test_wrong_judgements_are_one_line(tmp_path, make_shards, options, message, capsys):
    run = untrained_run(tmp_path / "two", small_config("vae", 2, 16))
    names = {
        "run": run,
        "real": make_shards(tmp_path / "real", 15, size=16),
        "more": make_shards(tmp_path / "more", 16, size=16),
        "colour": untrained_run(tmp_path / "colour", small_config("ae", 3)),
    }
    words = [word.format(**names) for word in options]
    assert main(["sample", str(run), "--out", str(tmp_path / "s.png"), *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"mae: {message.format(**names)}")
    assert not (tmp_path / "s.png").exists()
