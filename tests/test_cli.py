"""The commands that a person types, on small real files."""

import json
import os
import subprocess
import sys
from argparse import _SubParsersAction

import pytest
from PIL import Image

from mae import __version__
from mae.base.errors import UserError
from mae.cli import build_parser, main
from tests.runs import write_config


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, 60, shard_size=30, size=(20, 24), labels=True)


@pytest.fixture
def photos(tmp_path, make_image):
    """A folder with a class folder for cats and one for dogs, 20 pictures each."""
    for number in range(40):
        path = tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number)).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """A finished tiny run."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["pretrain", str(write_config(folder, shards)), "train.epochs=2"]) == 0
    return folder / "run"


def test_from_a_folder_of_images_to_an_export(tmp_path, photos, capsys):
    """The README's worked example."""
    packed = tmp_path / "shards"
    assert main(["pack", str(photos), str(packed), "--val", "0.2", "--shard-size", "16"]) == 0
    printed = capsys.readouterr().out
    assert "train 32 images in 2 shards, val 8 images in 1 shard, 2 classes" in printed
    assert "data.mean=[0." in printed
    assert f"{packed}/val-*.tar" in printed
    config = write_config(tmp_path, f"{packed}/train-*.tar")
    assert main(["pretrain", str(config), f"data.val={packed}/val-*.tar", "train.epochs=2"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "encoder")]) == 0
    assert "checked through timm" in capsys.readouterr().out
    assert (tmp_path / "encoder" / "README.md").exists()


def test_index_sums_up_the_shards(shards, capsys):
    assert main(["index", shards]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["shards", "2", "of", "30", "to", "30", "images"]
    assert "60 samples" in lines[3]


def test_index_measures_and_writes_what_other_tools_read(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path / "gray", 20, shard_size=10, channels=1, extension="png")
    out = f"{tmp_path}/gray/index.json"
    assert main(["index", shards, "--stats", "--wds2idx", "--wids", out]) == 0
    printed = capsys.readouterr().out
    assert "1 x 8 bits; of 20 images" in printed and "data.in_chans=1 data.mean=[0." in printed
    first = (tmp_path / "gray" / "shard-000000.idx").read_text().splitlines()[0]
    assert first == "v1.2 10"
    assert main(["index", out]) == 0  # and we read it, too
    assert "20: 20 png" in capsys.readouterr().out


def test_verify_names_what_is_bad(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path, 20, shard_size=10)
    assert main(["verify", shards, "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "20 images in 2 shards: all good"
    shard = tmp_path / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    at = data.index(b"\xff\xd8")
    data[at : at + 100] = bytes(100)
    shard.write_bytes(data)
    assert main(["verify", shards, "--workers", "1"]) == 1
    printed = capsys.readouterr()
    shard_line, image_line = printed.out.splitlines()[:2]
    assert shard_line.startswith(f"{shard}: not the bytes that were indexed (sha256)")
    assert image_line.startswith(f"{shard}: key sample-00010: does not decode")
    assert printed.err.splitlines()[-1] == "mae: 20 images in 2 shards: 2 bad"


def test_verify_goes_on_behind_a_damaged_shard(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path, 12, shard_size=4)
    for number in (0, 2):
        shard = tmp_path / f"shard-{number:06}.tar"
        shard.write_bytes(shard.read_bytes()[:1500])
    assert main(["verify", shards, "--workers", "0"]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    for number in (0, 2):
        assert any(f"shard-{number:06}.tar: is cut short" in line for line in lines)
    assert printed.err.splitlines()[-1] == "mae: 4 images in 3 shards: 2 bad"


@pytest.mark.parametrize("alpha", [255, 99])
def test_pack_of_images_with_alpha_suggests_nothing_that_training_refuses(
    alpha, tmp_path, make_image, capsys
):
    (tmp_path / "icons").mkdir()
    for number in range(4):
        image = Image.fromarray(make_image(number, (40, 60)))
        image.putalpha(Image.linear_gradient("L").resize((60, 40)) if alpha < 255 else 255)
        image.save(tmp_path / "icons" / f"{number}.png")
    out = tmp_path / "out"
    assert main(["pack", f"{tmp_path}/icons", str(out), "--resize", "20", "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "3 x 8 bits; of 4 images" in printed and "in_chans" not in printed
    assert main(["index", f"{out}/*.tar", "--stats"]) == 0
    assert "3 x 8 bits; of 4 images" in capsys.readouterr().out


def test_pack_succeeds_where_statistics_fail(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "photos" / "red.png")
    assert main(["pack", f"{tmp_path}/photos", f"{tmp_path}/out", "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "mean and std were not measured: channel 0 is the same in all pixels" in printed
    assert printed.splitlines()[-1] == f"  '{tmp_path}/out/train-*.tar'"


def test_workers_are_counted_where_they_start(run, shards, monkeypatch):
    """Reports do not name them: they are the same on any machine and number of processes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    asked = []

    def verify(shards, key, workers, *others, **options):
        asked.append(workers)
        raise UserError("no more of it")

    monkeypatch.setattr("mae.data.verify.verify_shards", verify)
    assert main(["verify", shards]) == 2
    assert asked == [3]
    assert main(["knn", str(run), "--train", shards, "--test", shards]) == 0
    settings = json.loads((run / "knn.json").read_text())["settings"]
    assert settings["k"] == 20 and not {"workers", "processes"} & settings.keys()


def test_several_processes_are_offered_where_they_divide_the_work(capsys):
    """The others refuse them, in one line."""
    commands = ("pretrain", "finetune", "attentive", "probe", "report", "export", "sample")
    offering = []
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        offering += [command] * ("--processes N" in capsys.readouterr().out)
    assert offering == ["pretrain", "finetune", "attentive", "probe"]
    for words in (["report", "run"], ["export", "run", "out"]):
        assert main([*words, "--processes", "2"]) == 2
        line = f"mae: --processes: {words[0]} runs in one process: leave the option out\n"
        assert capsys.readouterr().err == line


def test_an_abbreviated_number_of_processes_is_no_number(capsys):
    with pytest.raises(SystemExit):
        main(["attentive", "run", "--train", "a", "--test", "b", "--process", "2"])
    assert "write --processes in full" in capsys.readouterr().err


def test_idle_gpus_are_named_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mae.cli.idle_gpus", lambda: "1 of 8 GPUs are used: …")
    words = ["attentive", f"{tmp_path}/none", "--train", "a", "--test", "b"]
    for device, lines in (("auto", 2), ("cpu", 1)):
        assert main([*words, "--device", device]) == 2
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_a_reader_that_goes_away_is_no_traceback(shards):
    index = subprocess.Popen(
        [sys.executable, "-m", "mae", "index", shards],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert index.stdout and index.stderr
    index.stdout.close()  # before anything is printed
    with index:
        assert index.stderr.read() == ""
    assert index.returncode == 1


def test_bench_measures_the_loader(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path, 64, shard_size=32, size=(40, 50))
    out = f"{tmp_path}/bench.json"
    assert main(["bench", "loader", shards, "--quick", "--img-size", "32", "--out", out]) == 0
    assert "times mae" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["machine"]["cores"] > 0


def test_probe_reports_every_feature_and_budget(run, shards, capsys):
    arguments = ["--train", shards, "--test", shards, "--per-class", "5", "--splits", "2"]
    assert main(["probe", str(run), *arguments, "--baselines"]) == 0
    report = json.loads((run / "probe.json").read_text())
    found = {(r["encoder"], r["feature"], r["per_class"]) for r in report["results"]}
    encoders = [(e, f) for e in ("pretrained", "untrained") for f in ("cls", "mean")]
    assert found == {
        (*name, budget) for name in [*encoders, ("raw", "pixels")] for budget in (None, 5)
    }
    assert all(len(r["accuracies"]) == 2 for r in report["results"])
    table = capsys.readouterr().out
    assert "5 per class" in table and "untrained cls" in table


def test_probe_of_unlabelled_shards_names_the_first_sample(run, make_shards, tmp_path, capsys):
    bare = make_shards(tmp_path, 12, shard_size=12, labels=False)
    assert main(["probe", str(run), "--train", bare, "--test", bare]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mae: --train: 12 of 12 samples have no label (.cls), first ")
    assert ".tar: key " in error


def test_reconstruct_from_shards_and_from_files(run, shards, tmp_path, capsys):
    assert (
        main(["reconstruct", str(run), shards, "--count", "3", "--out", f"{tmp_path}/a.png"]) == 0
    )
    assert "R² on hidden patches of 60 images" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "a.json").read_text())) == {
        "step",
        "model",
        "patch_mean",
        "interpolation",
        "images",
        "masks",
    }
    Image.new("L", (50, 40), 128).save(tmp_path / "gray.png")
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.jpg")
    files = [f"{tmp_path}/gray.png", f"{tmp_path}/red.jpg"]
    assert main(["reconstruct", str(run), *files]) == 0
    with Image.open(run / "reconstruction.png") as panel:
        assert panel.width > 3 * 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{tmp}", "{tmp}/out"], "neither a run (config.yaml) nor a model (config.json"),
        (["export", "{run}", "{run}"], "is not empty; nothing is overwritten"),
        (["pack", "{tmp}/nowhere", "{tmp}/out"], "no such folder"),
        (["pack", "{tmp}", "{run}"], "is not empty; nothing is overwritten"),
        (["pack", "{tmp}", "{tmp}/out"], "no images: none of 1 for train is usable, first"),
        (["index", "{tmp}/nowhere.tar"], "no such shard"),
        (["index", "pipe:cat a.tar"], "--allow-pipe, allows it"),
        (["index", "nowhere://a.tar"], "unknown kind of address"),
        (["reconstruct", "{run}", "{tmp}/nowhere.png"], "cannot be read: No such file"),
        (["reconstruct", "{run}", "{tmp}/text.png"], "text.png: does not decode"),
    ],
)
def test_wrong_use_ends_in_one_line_and_code_2(arguments, message, run, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    filled = [argument.format(tmp=tmp_path, run=run) for argument in arguments]
    assert main(filled) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("mae: ")
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


COMMANDS = ["pretrain", "pack", "index", "verify", "bench", "export", "probe", "reconstruct"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"mae {command}" in printed
    assert command != "pretrain" or "model.mask_ratio = 0.75" in printed


READ_AS_FOLDERS = """
    attention images, attentive --train --test, edit images --direction, evaluate --test,
    export --images, features shards, fewshot --train, inspect-batch --train, interpolate --shards,
    knn --train, latents shards, neighbours images --among, pca images, probe --train,
    reconstruct images, sae-report --test, sample --compare, segment --train --test
"""
"""arguments by command for data that is read with the settings of a run"""


@pytest.mark.parametrize("words", READ_AS_FOLDERS.split(","), ids=str.strip)
def test_help_says_that_a_folder_will_do(words):
    command, *arguments = words.split()
    (parsers,) = (a for a in build_parser()._actions if isinstance(a, _SubParsersAction))
    helps = {
        name: str(action.help)
        for action in parsers.choices[command]._actions
        for name in action.option_strings or [action.dest]
    }
    assert not [name for name in arguments if "folder" not in helps[name]]


def test_wrong_options_exit_with_2():
    for arguments in ([], ["no-such"], ["pack"], ["pack", "a", "b", "--val", "2"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_the_version_and_a_stranger_by_the_name_of_the_module(capsys, monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err) == (0, f"mae {__version__} (distribution maekit)\n", "")
    (tmp_path / "mae-7.dist-info").mkdir()
    (tmp_path / "mae-7.dist-info" / "METADATA").write_text("Name: mae\nVersion: 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit):
        main(["--version"])
    err = capsys.readouterr().err
    assert "warning: another project, the distribution mae 7, is installed" in err
