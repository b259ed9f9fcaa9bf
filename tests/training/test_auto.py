"""`mae pretrain auto`: printed and recorded choices, overrides, resume, refusals, two processes."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from mae.cli import main
from mae.commands.supervise import run_folder
from mae.config.loading import recorded_config
from tests.runs import completed, events_of, metrics_of, on_two_processes

QUIET = ("log.wandb=false", "log.every=1", "data.workers=0")
SHORT = ("auto.hours=0.0001", "train.epochs=3", *QUIET)


def auto(out, shards, *settings):
    return main(["pretrain", "auto", f"data.train={shards}", f"output={out}", *settings])


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    out = tmp_path_factory.mktemp("auto") / "run"
    assert auto(out, shards, *SHORT) == 0
    return out


def test_choices_are_recorded_with_their_reasons(run):
    config = recorded_config(run)
    chosen = config.auto.chosen
    assert config.data.img_size == (20, 20) and config.data.own_statistics
    assert {"model.patch_size", "train.batch_size", "optim.lr", "data.in_chans"} <= chosen.keys()
    assert chosen["train.epochs"] == "given" and "20 x 24 px" in chosen["data.img_size"]
    assert config.train.epochs == 3 and config.auto.hours == 0.0001
    assert metrics_of(run)[-1]["epoch"] >= 3


def test_each_choice_is_printed_with_its_reason(shards, tmp_path, capsys):
    assert auto(tmp_path / "run", shards, *SHORT, "train.batch_size=16", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("auto    52 images of 20 x 24 px, colour, 8 bits; ")
    rows = {words[0]: line for line in lines if (words := line.split()) and line[:2] == "  "}
    assert rows["train.batch_size"].split()[1:] == ["16", "given"]
    assert "for a batch of 16" in rows["optim.lr"]
    assert len({line.index(line.split()[1]) for line in rows.values()}) == 1  # aligned
    assert any(line.startswith("warning: 52 training images are few") for line in lines)
    assert lines[-1].startswith("time    about")
    assert not (tmp_path / "run").exists()


def test_the_same_command_resumes_with_what_is_recorded(run, shards, tmp_path, capsys, monkeypatch):
    """On another machine, by other rules, and with what was typed left out."""
    shutil.copytree(run, out := tmp_path / "run")
    monkeypatch.setattr("mae.data.facts.data_facts", None)
    monkeypatch.setattr("mae.base.machine.this_machine", None)
    before = (out / "config.yaml").read_text()
    assert auto(out, shards, *SHORT[1:]) == 0
    assert auto(out, shards, *QUIET) == 0
    printed = capsys.readouterr().out
    assert f"settings as recorded in {out}/config.yaml" in printed
    assert printed.count("changed: ") == 1 and "changed: output: " in printed  # the copy's name
    assert (
        yaml.safe_load((out / "config.yaml").read_text())["train"]
        == (yaml.safe_load(before)["train"])
    )
    assert auto(out, shards, *QUIET, "train.epochs=4") == 0  # as for every run
    assert "changed: train.epochs: 3.0 → 4.0" in capsys.readouterr().out
    assert metrics_of(out)[-1]["epoch"] >= 4
    assert auto(out, shards, *QUIET, "train.batch_size=4") == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_other_hours_are_refused_where_a_run_is_planned(run, shards, tmp_path, capsys):
    shutil.copytree(run, out := tmp_path / "run")
    assert auto(out, shards, *QUIET, "auto.hours=2") == 2
    printed = capsys.readouterr().err
    assert f"auto.hours: 2 has no effect: {out} was planned for 0.0001 h" in printed
    assert "train.epochs=… to shorten or lengthen this run (3)" in printed
    assert auto(out, shards, *QUIET) == 0  # what was typed left out: the plan stays recorded
    assert recorded_config(out).auto.hours == 0.0001


def test_the_warm_up_goes_with_the_epochs_of_a_resumed_run(run, shards, tmp_path, capsys):
    shutil.copytree(run, out := tmp_path / "run")
    recorded = recorded_config(run)
    assert auto(out, shards, *QUIET, "train.epochs=6") == 0
    longer = recorded_config(out)
    assert longer.optim.warmup_epochs == pytest.approx(2 * recorded.optim.warmup_epochs, rel=0.1)
    assert auto(out, shards, *QUIET, "train.epochs=0.5") == 2  # less than the warm-up was
    assert "stands at step" in capsys.readouterr().err


def test_a_share_of_a_folder_is_held_out_and_stays_so(make_image, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mae.training.auto.FEWEST_HELD_OUT", 2)
    (photos := tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(make_image(number, 16)).save(photos / f"{number:02d}.png")
    packed = f"data.packed_dir={tmp_path}/packed"
    assert auto(tmp_path / "run", photos, *SHORT, packed) == 0
    printed = capsys.readouterr().out
    assert recorded_config(tmp_path / "run").data.val_share == 0.05
    images = json.loads((tmp_path / "run" / "starts.jsonl").read_text())["dataset"]
    assert images["held_out"] + images["images"] == 40
    assert f" {images['held_out']} images held out" in printed  # by names: not 5 % to the image
    assert (tmp_path / "run" / "health.jsonl").exists()
    copies = list((tmp_path / "packed").iterdir())
    assert auto(tmp_path / "run", photos, *SHORT, packed) == 0  # resumed, with the same copy
    assert list((tmp_path / "packed").iterdir()) == copies
    given = ("data.val_share=0", "--dry-run")
    assert auto(tmp_path / "other", photos, *SHORT, packed, *given) == 0
    assert "40 images of 16 x 16 px" in capsys.readouterr().out


def test_few_images_of_a_folder_are_all_trained_on_and_that_is_said(make_image, tmp_path, capfd):
    (photos := tmp_path / "photos").mkdir()
    for number in range(40):
        Image.fromarray(make_image(number, 16)).convert("L").save(photos / f"{number:02d}.png")
    packed = f"data.packed_dir={tmp_path}/packed"
    assert auto(tmp_path / "run", photos, *SHORT, packed, "--dry-run") == 0
    printed, errors = capfd.readouterr()
    assert "40 images are too few to hold any out (400 are enough); data.val=FOLDER" in printed
    assert "log.health_every" not in printed and "log.panel_every" in printed
    assert "to train on them as they are" not in errors
    assert "short side 16 pixels" in errors  # packed now, and reported
    assert auto(tmp_path / "run", photos, *SHORT, packed, "data.val_share=0.2", "--dry-run") == 0
    printed = capfd.readouterr()[0]
    assert "log.health_every" in printed and "too few to hold" not in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "data.train: give the images: mae pretrain auto data.train="),
        (
            ["data.train=a.tar", "objective=vae"],
            "objective: mae pretrain auto has no rules for vae",
        ),
        (
            ["data.train=a.tar", "objective=classifier"],
            "objective: classifier: mae finetune trains",
        ),
        (["data.train=nowhere/*.tar"], "data.train: no such shard: nowhere/*.tar"),
        (["data.train=a.tar", "train.bach_size=1"], "train.bach_size: unknown key, did you mean"),
        (
            ["data.train=a.tar", "init.from=timm:vit_small_patch16_224"],
            "init.from: auto chooses the encoder by itself: give model.encoder=",
        ),
        (["data.train=a.tar", "auto.hours=0"], "auto.hours: 0 should be greater than 0"),
    ],
)
def test_wrong_use_is_one_line(words, line, tmp_path, capsys):
    assert main(["pretrain", "auto", f"output={tmp_path}/run", *words]) == 2
    printed = capsys.readouterr().err
    assert line in printed and printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_runs_of_recipes_are_not_continued(reference_run, shards, capsys):
    assert auto(reference_run.folder, shards, *QUIET) == 2
    assert "holds a run that was not started by auto" in capsys.readouterr().err
    config = str(reference_run.folder.parent / "tiny.yaml")
    assert main(["pretrain", config, "auto.hours=1"]) == 2
    assert "auto.hours=1: only for mae pretrain auto" in capsys.readouterr().err


def test_the_recorded_settings_are_a_recipe(run, shards, tmp_path):
    words = [str(run / "config.yaml"), f"output={tmp_path}/run", "--dry-run"]
    assert main(["pretrain", *words]) == 0


def test_a_supervisor_finds_the_folder_without_looking_at_the_data():
    words = ["python", "-m", "mae.pretrain", "auto", "data.train=nowhere.tar"]
    assert str(run_folder(words)) == "runs/auto"
    assert str(run_folder([*words, "output=runs/x"])) == "runs/x"


def test_two_processes_train_by_the_choices_of_the_first(shards, tmp_path):
    words = ["pretrain", "auto", f"data.train={shards}", f"output={tmp_path}/run", *SHORT]
    done = completed(on_two_processes(*words))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("auto    52 images") == 1
    assert "2 processes x" in done.stdout
    assert {one["event"] for one in events_of(tmp_path / "run")} == {"start", "done"}
