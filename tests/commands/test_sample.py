import json

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
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


def test_objectives_without_samples_are_refused(tmp_path, capsys):
    ae = untrained_run(tmp_path / "ae", small_config("ae"))
    assert main(["sample", str(ae)]) == 2
    lack = "objective ae has no samples; mae sample needs them; objectives with them: "
    assert capsys.readouterr().err == f"mae: {ae}: {lack}vae, beta_vae, prior\n"
    assert not (ae / "samples.png").exists()


@pytest.mark.parametrize("name", ["vae", "beta_vae"])
def test_latents_without_a_prior_are_not_sampled(name, tmp_path, capsys):
    free = untrained_run(tmp_path / "free", small_config(name, beta=1e-6))
    assert main(["sample", str(free)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mae: {free}: trained with model.beta=1e-06: its latents do not follow")
    assert not (free / "samples.png").exists()
