"""Folders with brackets, braces and the like in their names, from images to an export."""

import json
import shlex

import pytest
import torch
from PIL import Image

from mae.cli import main
from mae.data.shards import expand_shards
from tests.runs import TINY

SETTINGS = (
    *("train.epochs=1", "train.batch_size=6", "optim.warmup_epochs=0.5", "data.workers=0"),
    *("log.wandb=false", "train.checkpoint_every=2"),
)
NAMES = ["out [v2] {a,b}", "it's 100% *?:: #1", "a{1..3}: b", "-x\\[!y]{"]


@pytest.fixture
def photos(tmp_path, make_image):
    """`photos(folder)` fills two class folders below tmp_path / folder with six images each."""

    def make(name):
        for number in range(12):
            path = tmp_path / name / "photos" / f"class {number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_image(number, (20, 24))).save(path)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", NAMES)
def test_packed_folder_is_read_by_pattern_and_by_name(name, photos, capsys):
    folder = photos(name)
    out = folder / name
    pack = ["pack", f"{folder}/photos", str(out), "--val", "0.25", "--workers", "0"]
    assert main(pack) == 0
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert printed == [[f"{out}/train-*.tar"], [f"{out}/val-*.tar"]]
    shard = str(out / "train-000000.tar")
    assert expand_shards(printed[0]) == (shard,)
    assert expand_shards([f"{out}/{{train,val}}-{{000000..000000}}.tar"])[0] == shard
    assert main(["index", *printed[0], "--stats", "--wids", f"{out}/index.json"]) == 0
    assert expand_shards([f"{out}/index.json"]) == (shard,)
    assert main(["verify", f"{out}/*.tar", "--workers", "0"]) == 0
    assert main(["pack", f"{out}/*.tar", f"{folder}/again", "--workers", "0"]) == 0
    assert (folder / "again" / "classes.txt").read_text() == "class 0\nclass 1\n"


@pytest.mark.usefixtures("in_process")
def test_whole_chain(photos, capsys, monkeypatch):
    torch.set_num_threads(1)
    folder = photos("out [v2] {a,b} #1: x")
    monkeypatch.chdir(folder)
    assert main(["pack", "photos", "sh [v2] {a,b} #2", "--val", "0.5", "--workers", "0"]) == 0
    patterns = [shlex.split(line)[0] for line in capsys.readouterr().out.splitlines()[-2:]]
    (folder / "tiny.yaml").write_text(TINY)
    run = "run [v2] {a,b} #3: y"
    data = [
        f"data.{key}={pattern}" for key, pattern in zip(("train", "val"), patterns, strict=True)
    ]
    assert main(["pretrain", "tiny.yaml", f"output={run}", *data, *SETTINGS]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [words[:3] for words in commands] == [
        ["mae", command, run] for command in ("export", "finetune", "report")
    ]
    assert main(["pretrain", f"{run}/config.yaml", f"output={run}"]) == 0  # resumes: nothing to do
    shards = ["--train", patterns[0], "--test", patterns[1]]
    assert main(["knn", run, *shards, "--out", "knn.json"]) == 0
    assert json.loads((folder / "knn.json").read_text())
    assert main(["finetune", run, f"output={run}/fine", *SETTINGS]) == 0
    assert json.loads((folder / run / "fine" / "evaluation.json").read_text())["images"] == 6
    assert main(["evaluate", f"{run}/fine", "--test", patterns[1], "--out", "evaluation.json"]) == 0
    assert main(["export", run, f"{run}/export [v2]"]) == 0
    assert main(["reconstruct", run, patterns[1]]) == 0
    assert main(["report", run]) == 0
