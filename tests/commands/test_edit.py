"""`mae edit`: attribute vectors from labelled shards, measured on held-out images."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    """Images of three classes: directions of a gradient; with names."""
    folder = tmp_path_factory.mktemp("shards")
    pattern = make_shards(folder, 90, shard_size=45, size=16, channels=1, extension="png")
    (folder / "classes.txt").write_text("across\nslanted\ndown\n")
    return pattern


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """Linear autoencoder of the images: PCA in a few steps."""
    folder = tmp_path_factory.mktemp("ae")
    words = [
        f"output={folder}/run",
        f"data.train={shards}",
        "data.img_size=16",
        "data.in_chans=1",
        "data.mean=[0.5]",
        "data.std=[0.2]",
        "data.flip=false",
        "data.workers=0",
        "train.epochs=40",
        "train.batch_size=30",
        "train.precision=fp32",
        "model.backbone=linear",
        "model.latent_dim=8",
        "optim.lr=0.01",
        "log.wandb=false",
        "log.panel_every=0",
        "train.checkpoint_every=1000",
    ]
    config = folder / "ae.yaml"
    config.write_text("objective: ae\n")
    assert main(["pretrain", str(config), *words]) == 0
    return folder / "run"


def edit(run, shards, out, *words):
    line = ["edit", str(run), shards, "--direction", shards, "--out", str(out), *words]
    return main([*line, "--attribute", "down"])


def test_an_edit_moves_its_class_more_than_the_others(run, shards, tmp_path, capsys):
    out, files = tmp_path / "e.png", tmp_path / "f"
    words = [
        "--from",
        "across",
        "--strength",
        "1",
        "-1",
        "1",
        "--count",
        "3",
        "--files",
        str(files),
    ]
    assert edit(run, shards, out, *words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["attribute"] == 2 and report["from"] == 0
    assert report["class_names"] == ["across", "slanted", "down"]
    rows = {(row["edit"], row["strength"]): row for row in report["measured"]["rows"]}
    own = rows["edit", 1]
    assert own["lead_interval"][0] > 0 and own["change"] > 0.3 and own["is_top_after"] > 0.5
    assert own["change"] > 2 * abs(rows["random direction", 1]["change"])
    assert rows["edit", -1]["change"] <= 0
    assert report["measured"]["probe"]["accuracy"] > 0.8
    assert (
        "strength 1 moves down by +" in said and "than the class that rises most, slanted" in said
    )
    names = [path.name for path in sorted(files.iterdir())]
    assert len(names) == 9 and "image-002-strength-1.png" in names
    first = {
        strength: np.asarray(Image.open(files / f"image-000-strength{strength}.png"), float)
        for strength in ("+0", "+1")
    }
    # across grows along x, down along y
    slopes = {name: image[-4:].mean() - image[:4].mean() for name, image in first.items()}
    assert slopes["+1"] > slopes["+0"] + 20


def test_the_same_command_gives_the_same_files(run, shards, tmp_path, capsys):
    made = []
    for name in ("a", "b"):
        out = tmp_path / name / "e.png"
        assert edit(run, shards, out, "--count", "2", "--strength", "1") == 0
        made.append((out.read_bytes(), json.loads(out.with_suffix(".json").read_text())))
    assert made[0] == made[1] and "down" in capsys.readouterr().out


def test_held_out_shards_are_measured_on(run, shards, tmp_path, make_shards, capsys):
    test = make_shards(tmp_path / "test", 12, shard_size=12, size=16, channels=1, extension="png")
    out = tmp_path / "e.html"
    words = ["--test", test, "--strength", "1", "--count", "1"]
    assert edit(run, shards, out, *words) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["measured"]["probe"]["images"] == 12 and out.stat().st_size > 1000
    assert report["measured"]["rows"][0]["images"] == 8  # of the other two classes
    assert report["direction"]["with"] == 30 and report["direction"]["without"] == 60
    assert "12 of the test images are in --direction too" in said.err
    assert "compared by number: no class names (classes.txt) of --test" in said.out


def test_too_few_images_to_hold_any_out_are_not_measured(run, tmp_path, make_shards, capsys):
    few = make_shards(tmp_path / "few", 12, shard_size=12, size=16, channels=1, extension="png")
    line = ["edit", str(run), few, "--direction", few, "--attribute", "2", "--count", "1"]
    assert main([*line, "--out", str(tmp_path / "e.png")]) == 0, capsys.readouterr().err
    assert "note: nothing was measured: no held-out image is without" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["measured"] is None


def test_held_out_images_of_other_classes_are_refused(run, shards, tmp_path, make_tar, capsys):
    picture = io.BytesIO()
    Image.new("L", (16, 16), 90).save(picture, "png")
    members = [
        member
        for number in range(4)
        for member in ((f"{number}.png", picture.getvalue()), (f"{number}.cls", b"7"))
    ]
    test = str(make_tar(tmp_path / "t.tar", members))
    assert edit(run, shards, tmp_path / "e.png", "--test", test, "--count", "1") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("mae: --test: no image is of a class of --direction, so nothing")
    assert not (tmp_path / "e.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attribute", "up"], "--attribute: no image of --direction has the class up; classes: "),
        (["--attribute", "3"], "--attribute: no image of --direction has the class 3; classes: "),
        (["--from", "down"], "--from: down is the class of --attribute"),
        (["--strength", "0"], "--strength: 0 edits nothing: numbers other than 0"),
        (["--strength", "nan"], "--strength: nan edits nothing: numbers other than 0"),
        (["--direction", "gone.tar"], "--direction: "),
        (["--out", "x.gif"], "--out: x.gif must end in .png or .html"),
    ],
)
def test_wrong_use_is_one_line(run, shards, words, message, capsys):
    line = ["edit", str(run), shards, "--direction", shards, "--attribute", "down", *words]
    assert main(line) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"mae: {message}")


def test_a_direction_needs_labels(run, make_shards, tmp_path, capsys):
    bare = make_shards(tmp_path, 8, size=16, channels=1, labels=False)
    assert main(["edit", str(run), bare, "--direction", bare, "--attribute", "1"]) == 2
    assert capsys.readouterr().err.count("--direction: no image has a class") == 1


def test_images_of_sixteen_bits_and_five_channels(tmp_path, make_tar, capsys):
    members = []
    for number in range(24):
        level = 9000 + 20_000 * (number % 2)
        values = np.random.default_rng(number).normal(level, 3000, (5, 16, 16)).round()
        file = io.BytesIO()
        np.save(file, values.clip(0, 65_535).astype(np.uint16))
        members.append((f"{number:02d}.cls", b"%d" % (number % 2)))
        members.append((f"{number:02d}.npy", file.getvalue()))
    shards = str(make_tar(tmp_path / "s.tar", members))
    run = untrained_run(tmp_path / "run", small_config("vae", 5, 16))
    words = ["edit", str(run), shards, "--direction", shards, "--attribute", "1"]
    assert main([*words, "--out", str(tmp_path / "e.png"), "--count", "2"]) == 0
    said = capsys.readouterr()
    assert "attribute: 1; 10 images with it, 10 without" in said.out
    (row, *_) = json.loads((tmp_path / "e.json").read_text())["measured"]["rows"]
    assert row["others"] is None and row["images"] == 2
    assert main([*words, "--files", str(tmp_path / "f")]) == 2
    assert "PNG files hold 1 to 4 channels" in capsys.readouterr().err
    words = ["interpolate", str(run), "0", "1", "--shards", shards, "--out", f"{tmp_path}/i.png"]
    assert main([*words, "--compare", shards, "--train", shards]) == 2
    assert "--compare: 24 images are too few: at least 32" in capsys.readouterr().err
    words = ["sample", str(run), "--compare", shards, "--train", shards, "-n", "2"]
    assert main([*words, "--out", str(tmp_path / "s.png")]) == 0, capsys.readouterr().err
    assert "Gaussian of pixels" in capsys.readouterr().out
