"""Command lines of `mae features`, `knn`, `probe` and `fewshot`."""

import json

import pytest
from safetensors.numpy import load_file

from mae.cli import main
from tests.evaluation.test_features import spoil
from tests.runs import write_config

FEW = ["--shots", "2", "--percent", "50", "--splits", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shards):
    """Training shards and, with other sizes, test shards."""
    folder = tmp_path_factory.mktemp("data")
    train = make_shards(folder / "train", 60, shard_size=30, size=(20, 24))
    return train, make_shards(folder / "test", 30, shard_size=30, size=(18, 22))


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    assert main(["pretrain", str(write_config(folder, data[0])), "train.epochs=2"]) == 0
    return folder / "run"


@pytest.fixture
def given(data):
    return ["--train", data[0], "--test", data[1]]


def test_commands_share_features_encoded_once(run, given, capsys):
    assert main(["knn", str(run), *given, "--baselines"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("encoding into") == 6  # three encoders, two data sets
    assert "k-NN is a quick indicator for MAE, not a result" in printed.out
    report = json.loads((run / "knn.json").read_text())
    assert report["step"] == 15 and report["k"] == 20 and report["settings"]["baselines"]
    assert "quick indicator" in report["measures"] and report["test_images_in_train"] == 0
    assert [(r["encoder"], r["feature"]) for r in report["results"]] == [
        ("pretrained", "cls"),
        ("pretrained", "mean"),
        ("untrained", "cls"),
        ("untrained", "mean"),
        ("raw", "pixels"),
    ]
    assert set(report["results"][0]["above"]) == {"untrained", "raw"}

    assert main(["fewshot", str(run), *given, *FEW]) == 0
    assert main(["probe", str(run), *given, "--splits", "1", "--classes", "3"]) == 0
    printed = capsys.readouterr()
    assert "encoding" not in printed.err and printed.err.count("made before") == 4
    assert "2 per class" in printed.out and "50 %" in printed.out
    probe = json.loads((run / "probe.json").read_text())
    few = json.loads((run / "fewshot.json").read_text())
    assert few["train"] == probe["train"] == report["train"]
    assert len(few["results"]) == 4 and len(few["results"][0]["accuracies"]) == 2


def test_features_of_a_file_give_the_same_numbers(run, data, given, tmp_path, capsys):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for shards, file in zip(data, files, strict=True):
        assert main(["features", str(run), shards, "--out", str(file), "--tokens"]) == 0
    assert "tokens  [30, 16, 32] float16" in capsys.readouterr().out
    assert load_file(files[0])["mean"].shape == (60, 32)
    from_files = ["--train", str(files[0]), "--test", str(files[1])]
    assert main(["knn", *from_files]) == 0
    assert main(["knn", str(run), *given, "--out", str(tmp_path / "run.json")]) == 0
    mine, theirs = (json.loads((tmp_path / f).read_text()) for f in ("knn.json", "run.json"))
    assert [r["accuracy"] for r in mine["results"]] == [r["accuracy"] for r in theirs["results"]]
    assert mine["step"] == 15 and mine["encoder"] == theirs["encoder"]
    assert main(["features", str(run), data[0], "--out", str(files[0])]) == 2
    assert "exists; nothing is overwritten" in capsys.readouterr().err


def test_export_serves_as_encoder(run, given, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "encoder")]) == 0
    before = sorted((tmp_path / "encoder").rglob("*"))
    assert main(["knn", str(tmp_path / "encoder"), *given]) == 0
    assert main(["knn", str(run), *given]) == 0
    beside = tmp_path / "encoder-evaluations"
    ours, theirs = (json.loads((folder / "knn.json").read_text()) for folder in (run, beside))
    assert sorted((tmp_path / "encoder").rglob("*")) == before  # nothing is put into it
    assert len(list((beside / "features").iterdir())) == 2
    elsewhere = tmp_path / "elsewhere" / "knn.json"
    assert main(["knn", str(tmp_path / "encoder"), *given, "--out", str(elsewhere)]) == 0
    assert len(list((tmp_path / "elsewhere" / "features").iterdir())) == 2
    assert ours["encoder"] == theirs["encoder"]  # the weights' sha256 among it
    for mine, other in zip(ours["results"], theirs["results"], strict=True):
        assert mine["accuracy"] == pytest.approx(other["accuracy"], abs=1 / 30 + 1e-9)


def test_other_settings_of_the_same_weights_are_encoded_again(run, given, tmp_path, capsys):
    """The number of attention heads shows in no tensor."""
    export = tmp_path / "encoder"
    assert main(["export", str(run), str(export)]) == 0
    assert main(["knn", str(export), *given]) == 0
    content = json.loads((export / "config.json").read_text())
    content["model_args"]["num_heads"] = 8
    (export / "config.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["knn", str(export), *given]) == 0
    assert "made before" not in capsys.readouterr().err


def test_features_in_the_cache_are_copied(run, data, tmp_path, capsys):
    assert main(["knn", str(run), "--train", data[0], "--test", data[1]]) == 0
    capsys.readouterr()
    out = tmp_path / "a.safetensors"
    assert main(["features", str(run), data[0], "--out", str(out)]) == 0
    assert "a copy of" in capsys.readouterr().err and load_file(out)["mean"].shape == (60, 32)


def test_bad_images_are_named_and_recorded(run, given, make_shards, tmp_path, capsys):
    train = make_shards(tmp_path / "shards", 30, size=(20, 24))
    spoil(tmp_path / "shards", "sample-00004")
    out = tmp_path / "knn.json"
    command = ["knn", str(run), "--train", train, *given[2:], "--out", str(out)]
    assert main(command) == 0
    assert "skipped: " in capsys.readouterr().err
    report = json.loads(out.read_text())
    assert report["train_images"] == 29
    assert len(report["train"]["skipped"]) == 1
    assert "key sample-00004" in report["train"]["skipped"][0]
    assert main(command) == 0  # from the cache
    assert "key sample-00004" in capsys.readouterr().err
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for shards, file in zip((train, given[3]), files, strict=True):
        assert main(["features", str(run), shards, "--out", str(file)]) == 0
    capsys.readouterr()
    from_files = ["--train", str(files[0]), "--test", str(files[1])]
    assert main(["knn", *from_files, "--out", str(out)]) == 0
    printed = capsys.readouterr().err
    assert f"--train: {files[0]} is without 1 bad images, first " in printed
    assert "key sample-00004" in printed and "--test" not in printed.split("note")[0]
    assert json.loads(out.read_text())["train_images"] == 29


def test_test_images_in_train_are_reported(run, data, tmp_path, capsys):
    out = tmp_path / "knn.json"
    assert main(["knn", str(run), "--train", data[0], "--test", data[0], "--out", str(out)]) == 0
    assert "warning: 60 of the test images are in --train too" in capsys.readouterr().err
    assert json.loads(out.read_text())["test_images_in_train"] == 60


def test_test_features_in_train_are_reported(run, data, tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "knn.json"
    assert main(["features", str(run), data[0], "--out", str(file)]) == 0
    capsys.readouterr()
    assert main(["knn", "--train", str(file), "--test", str(file), "--out", str(out)]) == 0
    assert "warning: 60 of the test images are in --train too" in capsys.readouterr().err
    assert json.loads(out.read_text())["test_images_in_train"] == 60
    other = tmp_path / "b.safetensors"
    assert main(["features", str(run), data[1], "--out", str(other)]) == 0
    assert main(["knn", "--train", str(file), "--test", str(other), "--out", str(out)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads(out.read_text())["test_images_in_train"] is None


@pytest.mark.parametrize("command", ["knn", "probe", "fewshot"])
def test_wrong_input_gives_one_line_and_no_files(
    command, run, given, make_shards, tmp_path, capsys
):
    bare = make_shards(tmp_path / "bare", 6, labels=False)
    files = sorted((run / "features").glob("*")) if (run / "features").exists() else []
    out = tmp_path / "out.json"

    def refused(*arguments: str) -> str:
        assert main([command, *arguments, "--out", str(out)]) == 2
        (line,) = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("mae: ")
        ]
        return line

    assert "have no label (.cls)" in refused(str(run), *given[:2], "--test", bare)
    assert "3 classes, not --classes 4" in refused(str(run), *given, "--classes", "4")
    assert "not one of --classes 2" in refused(str(run), *given, "--classes", "2")
    assert "neither a run (config.yaml) nor a model" in refused(str(tmp_path), *given)
    assert "one feature file each" in refused("--train", "a", "b", "--test", "c")
    assert "not a feature file" in refused("--train", "a", "--test", "b")
    assert "(.safetensors) need no RUN: omit it" in refused(
        str(run), "--train", "a.safetensors", *given[2:]
    )
    assert "needs a run folder" in refused("--train", "a", "--test", "b", "--baselines")
    assert not out.exists()
    assert sorted((run / "features").glob("*")) == files or not files


def test_features_of_different_encoders_do_not_mix(run, data, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    assert main(["features", str(run), data[1], "--out", str(file)]) == 0
    other = bytearray(file.read_bytes())
    place = other.index(b'"encoder": "') + len(b'"encoder": "')
    other[place : place + 4] = b"beef"
    (tmp_path / "b.safetensors").write_bytes(other)
    assert main(["knn", "--train", str(file), "--test", str(tmp_path / "b.safetensors")]) == 2
    assert "features of another encoder" in capsys.readouterr().err


def test_a_wrong_name_and_no_budget_are_refused(run, data, given, tmp_path, capsys):
    assert main(["features", str(run), data[0], "--out", str(tmp_path / "a.npz")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert main(["fewshot", str(run), *given, "--shots", "--percent"]) == 2
    assert "give at least one of them" in capsys.readouterr().err
    assert main(["fewshot", str(run), *given, "--shots", "21", "--percent"]) == 2
    assert "class 0 has 20 samples, not 21" in capsys.readouterr().err


def test_help_describes_what_is_measured(capsys):
    for command, words in {
        "features": "one safetensors file",
        "knn": "For MAE it is a quick indicator only",
        "probe": "hyperplanes in the frozen, standardised features",
        "fewshot": "where labels are scarce",
    }.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert words in " ".join(capsys.readouterr().out.split())
