"""Fine-tuning end to end: recipe, optimizer, resume, evaluation, refusals."""

import io
import json
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay

from mae.base.errors import UserError
from mae.cli import main
from mae.config.loading import recorded_config
from mae.finetune import comparisons
from mae.objectives.classifier.declaration import finetune_of, model_of
from mae.objectives.classifier.model import Classifier
from mae.objectives.classifier.recipe import finetune_settings, recipe_for
from mae.objectives.mae.declaration import model_of as vit_of
from mae.objectives.registry import declarations
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import load_pretrained
from mae.training.evaluator import without_accuracy
from tests.evaluation.test_features import spoil
from tests.runs import (
    command,
    completed,
    environment,
    final_weights,
    metrics_of,
    on_two_processes,
    write_config,
)

SETTINGS = (
    *("train.epochs=3", "train.batch_size=12", "optim.warmup_epochs=1", "optim.lr=1e-3"),
    *("data.workers=0", "train.checkpoint_every=4", "log.every=1", "log.wandb=false"),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, 48, shard_size=16, size=(20, 24), labels=True)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, shards):
    """Pretraining run of four steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pretrained")
    config = write_config(folder, shards)
    settings = ("train.epochs=1", "train.batch_size=12", "optim.warmup_epochs=0.5")
    assert main(["pretrain", str(config), *settings, f"data.val={shards}"]) == 0
    return folder / "run"


def typed(source, out, *settings):
    """Command line of `mae finetune` for a subprocess."""
    words = command(source, f"output={out}", *SETTINGS, *settings)
    return [word.replace("mae.pretrain", "mae.finetune") for word in words]


def finetune(source, out, *settings):
    return main(["finetune", str(source), f"output={out}", *SETTINGS, *settings])


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, pretrained):
    out = tmp_path_factory.mktemp("finetuned") / "run"
    assert finetune(pretrained, out, "finetune.ema=0.5") == 0
    return out


def test_held_out_images_that_are_trained_on_are_named(pretrained, shards, tmp_path, capsys):
    """Of any objective, once, also where only some are the same."""
    part = shards.replace("*", "000000")
    assert finetune(pretrained, tmp_path / "run", f"data.val={part}", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("warning: 16 of 16 images of data.val are in data.train too") == 1
    config = write_config(tmp_path, part)
    words = ["pretrain", str(config), f"data.val={shards}", "train.batch_size=12", "--dry-run"]
    assert main(words) == 0
    assert "warning: 16 of 48 images of data.val are in data.train too" in capsys.readouterr().out


def test_it_learns_from_the_pretrained_encoder_and_is_evaluated(finetuned, pretrained):
    config, objective, state = load_pretrained(finetuned)
    assert isinstance(objective, Classifier)
    assert state.step == 12
    assert finetune_of(config).num_classes == 3
    rows = metrics_of(finetuned)
    assert {"loss", "accuracy", "confidence"} <= rows[-1].keys()
    report = json.loads((finetuned / "evaluation.json").read_text())
    assert report["images"] == 48
    assert sum(map(sum, report["confusion"])) == 48
    assert (finetuned / "evaluation-confusion.png").stat().st_size > 1000
    record = json.loads((finetuned / "init.json").read_text())
    assert record["from"] and record["keys_loaded"] > 20
    health = [json.loads(line) for line in (finetuned / "health.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in health] == [1, 2, 3]
    assert health[-1]["accuracy"] == report["accuracy"]


def test_few_labels_change_the_recipe_and_a_resumed_run_keeps_it(
    pretrained, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    assert finetune(pretrained, out, "finetune.layer_decay=0.8", "train.epochs=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "recipe  adapted to these labels:"
    assert lines[1].split()[:3] == ["finetune.mixup", "0", "pays"]  # and so on: the reason
    config = recorded_config(out)
    assert finetune_of(config).mixup == 0 and finetune_of(config).layer_decay == 0.8
    assert "finetune.mixup" in config.auto.chosen and config.train.batch_size == 12
    assert "finetune.layer_decay" not in config.auto.chosen
    assert finetune(pretrained, out, "finetune.layer_decay=0.8", "train.epochs=2") == 0
    resumed = capsys.readouterr().out
    assert resumed.splitlines()[0] == f"recipe  settings as recorded in {out}/config.yaml"
    assert "finetune.mixup" not in resumed and recorded_config(out).auto == config.auto
    # A run of an earlier version, by the published recipe: what it has recorded counts.
    recorded = yaml.safe_load((out / "config.yaml").read_text())
    del recorded["auto"]
    recorded["finetune"]["mixup"] = 0.8
    (out / "config.yaml").write_text(yaml.safe_dump(recorded))
    monkeypatch.setattr("mae.finetune.labelled_images", lambda config: 1 / 0)
    assert finetune(pretrained, out, "finetune.layer_decay=0.8", "train.epochs=3") == 0
    assert finetune_of(recorded_config(out)).mixup == 0.8
    assert not recorded_config(out).auto.chosen
    assert not capsys.readouterr().out.startswith("recipe")


def test_a_resumed_run_keeps_its_data_unless_other_data_is_typed(
    pretrained, make_shards, tmp_path, capsys
):
    (declared,) = declarations("mae finetune")
    train = make_shards(tmp_path / "train", 24, size=(20, 24), labels=True)
    val = make_shards(tmp_path / "test", 6, size=(18, 22), labels=True)
    run = tmp_path / "run"
    given = (f"data.train={train}", f"data.val={val}", "data.flip=false", "train.epochs=1")
    assert finetune(pretrained, run, *given, "optim.warmup_epochs=0.5") == 0
    (run / "evaluation.json").unlink()
    capsys.readouterr()
    assert finetune(pretrained, run, "train.epochs=2") == 0
    assert "changed: data" not in capsys.readouterr().out
    assert json.loads((run / "evaluation.json").read_text())["images"] == 6
    data = recorded_config(run).data
    assert (data.train, data.val, data.flip) == ((train,), (val,), False)

    def resumed(*words):
        words = [*words, f"output={run}"]
        return declared.settings_from(pretrained, words, lambda config: 1 // 0).data

    assert resumed("data.val=[]").val == () and resumed("data.val=[]").train == (train,)
    assert resumed("data.train=moved.tar").train == ("moved.tar",)
    by_share = resumed("data.val_share=0.2")
    assert (by_share.val, by_share.val_share) == ((), 0.2)
    assert resumed("data.index_dir=here").packed_dir == resumed().packed_dir
    recipe = tmp_path / "own.yaml"
    recipe.write_text("objective: classifier\ndata: {flip: true}\ntrain: {epochs: 9}\n")
    by_recipe = resumed(str(recipe))
    assert (by_recipe.val, by_recipe.flip) == ((val,), True)


def test_a_resumed_run_needs_no_data_of_its_source(pretrained, tmp_path):
    """The source was trained on a mixture, which a classifier is not."""
    source, run = tmp_path / "source", tmp_path / "source-finetuned"
    source.mkdir()
    values = yaml.safe_load((pretrained / "config.yaml").read_text())
    values["data"] |= {"mixture": [{"shards": values["data"]["train"]}], "train": []}
    (source / "config.yaml").write_text(yaml.safe_dump(values))
    (declared,) = declarations("mae finetune")
    with pytest.raises(UserError, match=r"data\.train: give the labelled shards"):
        declared.settings_from(source, [], None)
    Run(run).open(declared.settings_from(source, ["data.train=a.tar"], None))
    assert declared.settings_from(source, [], None).data.train == ("a.tar",)


def test_a_run_without_held_out_images_says_so(pretrained, tmp_path):
    (declared,) = declarations("mae finetune")
    (tmp_path / "photos").mkdir()
    config = declared.settings_from(pretrained, [f"data.train={tmp_path}/photos"], None)
    assert list(without_accuracy(config)) == [
        "note: no data.val, so no accuracy is measured; data.val_share=0.2 holds out a fifth of "
        "the folder"
    ]
    (line,) = without_accuracy(declared.settings_from(pretrained, ["data.train=a.tar"], None))
    assert "val_share" not in line
    assert not list(without_accuracy(recorded_config(pretrained)))  # needs no labels


def test_the_last_lines_compare_with_what_pretraining_was_worth(pretrained):
    (declared,) = declarations("mae finetune")
    words = ["data.train=a b.tar", "data.val=c.tar", "output=runs/x"]
    lines = list(comparisons(declared.settings_from(pretrained, words, None)))
    assert f"mae probe {pretrained} --train 'a b.tar' --test c.tar --baselines" in lines[1]
    assert "init.from=none output=runs/x-scratch" in lines[2]
    assert lines[3].strip() == "mae evaluate runs/x --test c.tar --beside runs/x-scratch"
    scratch = declared.settings_from(pretrained, [*words, "init.from=none"], None)
    assert not list(comparisons(scratch))


def test_the_warm_up_follows_the_epochs(pretrained):
    (declared,) = declarations("mae finetune")
    for count in (None, lambda config: 48):
        config = declared.settings_from(pretrained, ["train.epochs=3"], count)
        assert config.optim.warmup_epochs < 0.5
    with pytest.raises(UserError, match=r"optim\.warmup_epochs: 5, but train\.epochs is only 3"):
        declared.settings_from(pretrained, ["train.epochs=3", "optim.warmup_epochs=5"], None)


def test_the_encoder_starts_with_the_pretrained_weights(pretrained, tmp_path):
    """A learning rate of 0 leaves them unchanged."""
    assert finetune(pretrained, tmp_path / "run", "optim.lr=1e-30", "optim.min_lr=0") == 0
    before, after = final_weights(pretrained), final_weights(tmp_path / "run")
    near = {key: key in before and torch.allclose(before[key], after[key]) for key in after}
    same = [key for key in after if near[key]]
    own = ("encoder.head.", "encoder.fc_norm.")
    assert {*after} - {*same} == {key for key in after if key.startswith(own)}


def test_killed_it_resumes_bit_for_bit(finetuned, pretrained, tmp_path):
    out = tmp_path / "run"
    assert finetune(pretrained, out, "finetune.ema=0.5") == 0
    whole = final_weights(out)
    assert all(torch.equal(value, final_weights(finetuned)[key]) for key, value in whole.items())
    shutil.rmtree(max((out / "checkpoints").glob("step-*")))  # stands at step 8 again
    assert finetune(pretrained, out, "finetune.ema=0.5") == 0
    assert all(torch.equal(value, whole[key]) for key, value in final_weights(out).items())
    assert any(key.startswith("average.") for key in whole)


def test_from_scratch_by_the_same_command(pretrained, tmp_path):
    assert finetune(pretrained, tmp_path / "run", "init.from=none") == 0
    assert not (tmp_path / "run" / "init.json").exists()


def test_it_resumes_without_its_source(pretrained, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(pretrained, copy)
    assert finetune(copy, tmp_path / "run") == 0
    for path in copy.glob("checkpoints/*"):
        shutil.rmtree(path)
    assert finetune(copy, tmp_path / "run", "train.epochs=4") == 0  # has weights of its own


def test_evaluate(finetuned, shards, tmp_path, capsys):
    out = tmp_path / "on-train.json"
    assert main(["evaluate", str(finetuned), "--test", shards, "--out", str(out)]) == 0
    assert "accuracy" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["interval"][0] <= report["accuracy"] <= report["interval"][1]
    assert (tmp_path / "on-train-confusion.png").exists()


def test_evaluating_on_training_images_warns(finetuned, shards, make_shards, tmp_path, capsys):
    out = tmp_path / "out.json"
    command = ["evaluate", str(finetuned), "--out", str(out), "--test"]
    assert main([*command, shards]) == 0
    assert "warning: 48 of the test images are in data.train too" in capsys.readouterr().err
    report = json.loads(out.read_text())
    assert report["test_images_in_train"] == 48
    assert report["selection"] == "the last checkpoint; 48 of these images were trained on"
    assert main([*command, make_shards(tmp_path / "new", 12, size=(18, 22))]) == 0
    assert "warning" not in capsys.readouterr().err
    report = json.loads(out.read_text())
    assert report["test_images_in_train"] == 0
    assert report["selection"] == "the last checkpoint; nothing was chosen on these images"


def test_missing_training_images_are_reported(pretrained, make_shards, tmp_path, capsys):
    train = make_shards(tmp_path / "train", 24)
    assert finetune(pretrained, tmp_path / "run", f"data.train={train}", "train.epochs=2") == 0
    shutil.rmtree(tmp_path / "train")
    test = make_shards(tmp_path / "test", 6)
    assert main(["evaluate", str(tmp_path / "run"), "--test", test]) == 0
    assert "whether these images were trained on is not known" in capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["test_images_in_train"] is None


def test_other_images_at_the_place_of_the_training_images_say_nothing(
    pretrained, make_shards, tmp_path, capsys
):
    """The test images are those that the run was trained on; the others are at their place now."""
    train = make_shards(tmp_path / "train", 24)
    assert finetune(pretrained, tmp_path / "run", f"data.train={train}", "train.epochs=2") == 0
    shutil.move(tmp_path / "train", tmp_path / "test")
    make_shards(tmp_path / "train", 24, size=(30, 30))
    assert main(["evaluate", str(tmp_path / "run"), "--test", f"{tmp_path}/test/*.tar"]) == 0
    assert "is not known: data.train holds other images now" in capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["test_images_in_train"] is None
    assert report["selection"] == (
        "the last checkpoint; whether these images were trained on is not known"
    )


def test_bad_test_images_are_named_counted_and_limited(finetuned, make_shards, tmp_path, capsys):
    copy, test = tmp_path / "run", make_shards(tmp_path / "test", 24)
    shutil.copytree(finetuned, copy)
    spoil(tmp_path / "test", "sample-00003", "sample-00005")
    command = ["evaluate", str(copy), "--test", test]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "key sample-00003" in printed.err and "22 images, 2 bad" in printed.out
    report = json.loads((copy / "evaluation.json").read_text())
    assert report["bad"] == 2 and "key sample-00005" in report["skipped"][1]
    settings = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(re.sub("max_bad: .*", "max_bad: 1", settings))
    (copy / "evaluation.json").unlink()
    assert main(command) == 2
    assert "more than data.max_bad = 1" in capsys.readouterr().err
    assert not (copy / "evaluation.json").exists()


def test_classes_of_test_images_are_matched_by_name(finetuned, make_shards, tmp_path, capsys):
    copy, test = tmp_path / "run", make_shards(tmp_path / "test", 6)
    shutil.copytree(finetuned, copy)
    names, out = tmp_path / "test" / "classes.txt", copy / "evaluation.json"
    (copy / "classes.txt").write_text("a\nb\nc\n")
    words = ["evaluate", str(copy), "--test", test]
    assert main(words) == 0
    numbered = json.loads(out.read_text())
    assert "compared by number: no class names (classes.txt) of --test" in capsys.readouterr().out
    names.write_text("c\nb\na\n")  # the same numbers for other classes
    assert main(words) == 0
    found = json.loads(out.read_text())
    assert found["confusion"] == numbered["confusion"][::-1]
    assert "matched by name" in found["notes"][-1]
    assert f"note: {found['notes'][-1]}" in capsys.readouterr().out
    names.write_text("a\nb\nzebra\n")
    assert main(words) == 2
    assert f"1 class is not in {copy}: zebra" in capsys.readouterr().err
    assert main(["evaluate", str(finetuned), "--test", test, "--beside", str(copy)]) == 2
    assert f"not in {copy}: zebra" in capsys.readouterr().err


def test_two_folders_packed_apart(pretrained, make_image, tmp_path, capsys):
    """a, b, c in one and a, c in the other: c is class 1 of the second."""
    for folder, classes in (("tr", "abc"), ("va", "ac")):
        for name in classes:
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(4):
                image = make_image("abc".index(name) + 3 * number + 30 * (folder == "va"))
                Image.fromarray(image).save(tmp_path / folder / name / f"{number}.png")
        words = ["pack", str(tmp_path / folder), str(tmp_path / f"{folder}-packed")]
        assert main([*words, "--workers", "0"]) == 0
    train, val = (f"{tmp_path}/{folder}-packed/*.tar" for folder in ("tr", "va"))
    more = (f"data.train={train}", f"data.val={val}", "train.epochs=2")
    assert finetune(pretrained, tmp_path / "run", *more) == 0
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [sum(row) for row in report["confusion"]] == [4, 0, 4]
    assert {row["name"]: row["images"] for row in report["classes"]}["c"] == 4
    assert (tmp_path / "run" / "classes.txt").read_text() == "a\nb\nc\n"
    knn = ["knn", str(pretrained), "--train", train, "--test", val, "--out"]
    assert main([*knn, str(tmp_path / "knn.json")]) == 0
    of_shards = json.loads((tmp_path / "knn.json").read_text())
    assert "matched by name" in of_shards["notes"][-1]
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    for pattern, file in zip((train, val), files, strict=True):
        assert main(["features", str(pretrained), pattern, "--out", file]) == 0
    words = ["knn", "--train", files[0], "--test", files[1], "--out", str(tmp_path / "f.json")]
    assert main(words) == 0
    of_files = json.loads((tmp_path / "f.json").read_text())
    assert of_files["results"] == of_shards["results"] and of_files["notes"] == of_shards["notes"]
    (tmp_path / "tr-packed" / "classes.txt").write_text("b\na\nc\n")
    assert finetune(pretrained, tmp_path / "run", *more, "train.epochs=3") == 2
    error = capsys.readouterr().err
    assert "data.train: its classes (b, a, c) are not those that" in error


def test_a_checkpoint_is_evaluated_and_the_run_keeps_it(finetuned, shards, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finetuned, copy)
    (copy / "evaluation-confusion.png").unlink()
    checkpoint = min((copy / "checkpoints").glob("step-*"))
    before = sorted(checkpoint.iterdir())
    assert main(["evaluate", str(checkpoint), "--test", shards]) == 0
    assert sorted(checkpoint.iterdir()) == before
    report = json.loads((copy / "evaluation.json").read_text())
    step = int(checkpoint.name.removeprefix("step-"))
    assert report["step"] == step < 12 and report["selection"].startswith("a given checkpoint")
    assert (copy / "evaluation-confusion.png").exists()
    assert f"{copy}, step {step}\n" in capsys.readouterr().out


def test_a_fine_tuned_encoder_is_named_so(finetuned, shards, make_shards, tmp_path, capsys):
    test = make_shards(tmp_path / "test", 12)
    given = ["--train", shards, "--test", test]
    knn = ["knn", str(finetuned), *given, "--baselines", "--out", str(tmp_path / "knn.json")]
    assert main(knn) == 0
    shown = capsys.readouterr().out
    assert "fine-tuned mean" in shown and "above untrained" in shown and "pretrained" not in shown
    rows = json.loads((tmp_path / "knn.json").read_text())["results"]
    assert {row["encoder"] for row in rows} == {"fine-tuned", "untrained", "raw"}
    assert {*rows[0]["above"]} == {"untrained", "raw"}
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    for pattern, file in zip((shards, test), files, strict=True):
        assert main(["features", str(finetuned), pattern, "--out", file]) == 0
    assert main(["knn", "--train", files[0], "--test", files[1]]) == 0
    assert "fine-tuned mean" in capsys.readouterr().out
    assert main(["export", str(finetuned), str(tmp_path / "timm")]) == 0
    assert main(["knn", str(tmp_path / "timm"), *given]) == 0
    assert "fine-tuned mean" in capsys.readouterr().out
    attentive = ["attentive", str(finetuned), *given, "--epochs", "1", "--baselines"]
    assert main([*attentive, "--out", str(tmp_path / "attentive.json")]) == 0
    assert "fine-tuned tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("finetune.num_classes=2",), "labels go up to 2"),
        (("finetune.num_classes=1",), "1 class leaves nothing to learn"),
        (("train.batch_size=9", "finetune.mixup=0.8"), "need an even number"),
        (("finetune.rand_augment=trivial",), "timm has no such policy"),
        (("finetune.layer_decay=0",), "finetune.layer_decay"),
        (("data.crop_on_device=true",), "finetune.rand_augment"),
        (("data.decode_on_device=true",), "finetune.rand_augment"),
        (("model.encoder_kwargs={embed_dim: 16, depth: 2, num_heads: 2}",), "shape"),
        (("objective=mae",), "mae pretrain"),
    ],
)
def test_refusals(pretrained, tmp_path, capsys, settings, words):
    assert finetune(pretrained, tmp_path / "run", *settings) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_two_runs_are_compared_on_the_same_images(finetuned, pretrained, shards, tmp_path, capsys):
    assert finetune(pretrained, tmp_path / "other", "init.from=none", "train.epochs=2") == 0
    out = tmp_path / "both.json"
    words = ["evaluate", str(finetuned), "--test", shards, "--out", str(out)]
    assert main([*words, "--beside", str(tmp_path / "other")]) == 0
    report = json.loads(out.read_text())
    found = report["above"]
    assert found["difference"] == pytest.approx(report["accuracy"] - found["accuracy"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    printed = capsys.readouterr()
    assert "points (" in printed.out and found["test_images_in_train"] == 48
    warning = "warning: 48 of the test images are in {}data.train too"
    other = f"{tmp_path / 'other'}: "
    assert all(warning.format(of) in printed.err for of in ("", other))


def test_named_classes_and_stray_labels(pretrained, tmp_path, make_shards, capsys):
    shards = make_shards(tmp_path / "named", 24, labels=True)
    (tmp_path / "named" / "classes.txt").write_text("a\nb\nc\nnever seen\n")
    assert finetune(pretrained, tmp_path / "run", f"data.train={shards}", "train.epochs=2") == 0
    assert finetune_of(load_pretrained(tmp_path / "run")[0]).num_classes == 4
    stray = tmp_path / "stray"
    stray.mkdir()
    with (
        tarfile.open(stray / "a.tar", "w") as tar,
        tarfile.open(shards.replace("*", "000000")) as old,
    ):
        for member in old.getmembers():
            file = old.extractfile(member)
            assert file
            data = b"4000" if member.name.endswith("0.cls") else file.read()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert (
        finetune(pretrained, tmp_path / "other", f"data.train={stray}/a.tar", "train.batch_size=2")
        == 2
    )
    assert "labels go up to 4000" in capsys.readouterr().err


def test_grey_images_turn_rand_augment_off(pretrained, tmp_path, make_shards, capsys):
    grey = make_shards(tmp_path / "grey", 16, size=(20, 24), channels=1)
    words = (f"data.train={grey}", "data.in_chans=1", "data.mean=[0.5]", "data.std=[0.25]")
    more = ("init.from=none", "train.epochs=2", "train.batch_size=8")
    assert finetune(pretrained, tmp_path / "run", *words, *more) == 0
    assert "without RandAugment, which is for colour images, not for 1 channel of 8 bits" in (
        capsys.readouterr().out
    )
    assert finetune_of(load_pretrained(tmp_path / "run")[0]).rand_augment == ""
    asked = "finetune.rand_augment=rand-m9-mstd0.5-inc1"
    assert finetune(pretrained, tmp_path / "other", *words, *more, asked) == 2
    refused = capsys.readouterr().err
    assert "finetune.rand_augment: is for colour images" in refused
    assert refused.strip().endswith("set finetune.rand_augment=''")
    grey_run = tmp_path / "own.yaml"
    grey_run.write_text("data: {train: a.tar, bits: 16}\n")
    assert finetune_of(finetune_settings(grey_run, [])).rand_augment == ""
    assert finetune_of(finetune_settings(grey_run, ["data.bits=8"])).rand_augment


@pytest.mark.parametrize("recipe", ["vit_small_patch16_224_finetune", "own.yaml"])
def test_grey_images_turn_rand_augment_of_a_recipe_off(tmp_path, monkeypatch, recipe):
    monkeypatch.chdir(tmp_path)
    named = "finetune: {rand_augment: rand-m10-mstd0.5-inc1}\n"
    Path("own.yaml").write_text(named)
    grey = "data.train=a.tar data.in_chans=1 data.mean=[0.5] data.std=[0.25] output=x".split()
    assert finetune_of(finetune_settings(recipe, grey)).rand_augment == ""
    assert finetune_of(finetune_settings(recipe, ["data.train=a.tar"])).rand_augment
    with pytest.raises(UserError, match="is for colour images"):
        finetune_settings(recipe, [*grey, "finetune.rand_augment=rand-m9-mstd0.5-inc1"])
    Path("both.yaml").write_text(f"{named}data: {{in_chans: 1, mean: [0.5], std: [0.25]}}\n")
    with pytest.raises(UserError, match="is for colour images"):
        finetune_settings("both.yaml", ["data.train=a.tar"])


def test_labels_that_are_no_numbers_are_named(pretrained, tmp_path, make_tar, make_image, capsys):
    image = io.BytesIO()
    Image.fromarray(make_image(0)).save(image, "PNG")
    members = [(f"{n}.png", image.getvalue()) for n in range(2)]
    shard = str(make_tar(tmp_path / "a.tar", [*members, ("0.cls", b"0.0"), ("1.cls", b"1")]))
    words = (f"data.train={shard}", "train.batch_size=2")
    assert finetune(pretrained, tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert "1 of 2 samples have no label (.cls)" in error and len(error.splitlines()) == 1
    assert "no whole number" in error and "0.cls" in error
    knn = ["knn", str(pretrained), "--train", shard, "--test", shard]
    assert main(knn) == 2
    assert "no whole number" in capsys.readouterr().err


def test_unlabelled_shards(pretrained, tmp_path, make_shards, capsys):
    plain = make_shards(tmp_path / "plain", 24, labels=False)
    assert finetune(pretrained, tmp_path / "run", f"data.train={plain}") == 2
    assert "have no label" in capsys.readouterr().err
    for watched in ("log.health_every=1", "log.health_every=0"):
        assert finetune(pretrained, tmp_path / "run", f"data.val={plain}", watched) == 2
        assert "data.val" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_kind(finetuned, pretrained, shards, tmp_path, capsys):
    assert main(["finetune", str(finetuned)]) == 2
    assert "fine-tuned already" in capsys.readouterr().err
    assert main(["evaluate", str(pretrained), "--test", shards]) == 2
    assert "a pretraining run" in capsys.readouterr().err
    assert main(["finetune", str(tmp_path / "nothing.yaml")]) == 2
    assert "no such config file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "blr", "epochs", "layer_decay", "drop_path"),
    [
        ("vit_base_patch16_224", 5e-4, 100, 0.65, 0.1),
        ("vit_large_patch16_224", 1e-3, 50, 0.75, 0.2),
        ("vit_huge_patch14_224", 1e-3, 50, 0.75, 0.3),
        ("vit_small_patch16_224", 5e-4, 100, 0.65, 0.1),
    ],
)
def test_the_published_recipe(tmp_path, encoder, blr, epochs, layer_decay, drop_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"model: {{encoder: {encoder}}}\ndata: {{train: a.tar}}\n")
    config = finetune_settings(path, ["init.from=a"])
    assert finetune_of(finetune_settings(path, [])).layer_decay == 1  # from scratch
    chosen = finetune_settings(path, ["finetune.layer_decay=0.5"])
    assert finetune_of(chosen).layer_decay == 0.5
    assert (config.optim.blr, config.train.epochs) == (blr, epochs)
    own = finetune_of(config)
    assert (own.layer_decay, own.drop_path) == (layer_decay, drop_path)
    assert config.optim.betas == (0.9, 0.999)
    assert (config.optim.min_lr, config.optim.warmup_epochs) == (1e-6, 5)
    assert (config.train.batch_size, config.optim.weight_decay) == (1024, 0.05)
    assert (own.mixup, own.cutmix) == (0.8, 1.0)
    assert (own.label_smoothing, own.random_erasing) == (0.1, 0.25)
    assert own.rand_augment == "rand-m9-mstd0.5-inc1"
    assert recipe_for(encoder)["objective"] == "classifier"


def test_written_settings_override_the_recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("optim: {blr: 1.0e-4}\ntrain: {epochs: 7}\ndata: {train: a.tar}\n")
    config = finetune_settings(path, ["train.epochs=9"])
    assert (config.optim.blr, config.train.epochs, config.optim.min_lr) == (1e-4, 9, 1e-6)


def test_the_pretraining_run_gives_model_and_data(pretrained):
    run = load_pretrained(pretrained)[0]
    config = finetune_settings(pretrained, [])
    assert model_of(config).encoder_kwargs == vit_of(run).encoder_kwargs
    assert (config.data.train, config.data.mean) == (run.data.train, run.data.mean)
    assert config.output == f"{pretrained}-finetuned"
    assert config.init.from_ == str(pretrained)
    assert config.data.scale == (0.08, 1.0)


def test_timm_names_of_layers_are_ours(finetuned):
    """Groups of the built optimizer, compared with timm's and with the formula."""
    from mae.objectives.registry import implementation
    from mae.training.optim import build_optimizer, set_lr

    config, objective, _ = load_pretrained(finetuned)
    assert isinstance(objective.encoder, VisionTransformer)
    own = finetune_of(config).model_copy(update={"layer_decay": 0.65})
    config = config.model_copy(update={"finetune": own})
    groups = implementation("classifier").parameter_groups(objective, config)
    optimizer = build_optimizer(groups, config.optim)
    set_lr(optimizer, 1.0)
    vit = objective.encoder
    assert isinstance(vit, VisionTransformer)
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    depth = len(vit.blocks)
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            if block := re.match(r"blocks\.(\d+)\.", name):
                layer = int(block[1]) + 1
            else:
                layer = (
                    0 if name.startswith(("cls_token", "pos_embed", "patch_embed")) else depth + 1
                )
            assert group["lr"] == pytest.approx(0.65 ** (depth + 1 - layer)), name
            decays = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
            assert group["weight_decay"] == (config.optim.weight_decay if decays else 0), name
    assert seen == {*names.values()}
    theirs = param_groups_layer_decay(
        vit, config.optim.weight_decay, vit.no_weight_decay(), layer_decay=0.65
    )
    assert [g["lr_scale"] for g in theirs] == [g["lr_scale"] for g in optimizer.param_groups]


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        finetune_settings(tmp_path, [])


def test_a_classifier_goes_to_timm_and_onnx(finetuned, tmp_path, capsys):
    """Exports hold the averaged weights, which are those that were evaluated."""
    import timm

    assert main(["export", str(finetuned), str(tmp_path / "timm")]) == 0
    assert "the classifier of step 12, checked through timm" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    config, objective, _ = load_pretrained(finetuned)
    assert isinstance(objective, Classifier)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (config.data.mean, config.data.std))
    with torch.no_grad():
        torch.testing.assert_close(model((images / 255 - mean) / std), objective.logits(images))
    assert isinstance(model, VisionTransformer)
    assert vars(model)["pretrained_cfg"]["label_names"] == ["0", "1", "2"]
    card = (tmp_path / "timm" / "README.md").read_text()
    assert "fine-tuned to 3 classes" in card and "image-classification" in card
    assert main(["export", str(finetuned), str(tmp_path / "hf"), "--format", "hf"]) == 2
    assert "--format hf: ViTForImageClassification reads the class token" in capsys.readouterr().err
    assert main(["export", str(finetuned), str(tmp_path / "x"), "--pool", "token"]) == 2
    assert "was trained on avg" in capsys.readouterr().err


def test_two_processes_train_and_evaluate_together(pretrained, tmp_path):
    """Held-out averages are over all images, each once."""
    out = f"output={tmp_path}/run"
    words = ["finetune", str(pretrained), out, *SETTINGS, "train.epochs=1.5"]
    done = completed(on_two_processes(*words))
    assert done.returncode == 0, done.stderr
    assert "batch   12 = 2 processes x 1 accumulated x 6 images" in done.stdout
    assert done.stdout.count("accuracy  ") == 1, "evaluated once, by the first process"
    assert metrics_of(tmp_path / "run")[-1]["step"] == 6
    health = [json.loads(t) for t in (tmp_path / "run" / "health.jsonl").read_text().splitlines()]
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["images"] for row in health] == [48, 48]
    for key in ("accuracy", "balanced_accuracy", "top5"):
        assert health[-1][key] == report[key]
    assert health[-1]["loss"] == pytest.approx(report["loss"], rel=1e-6)


def test_stopped_by_a_signal_it_resumes_bit_for_bit(pretrained, tmp_path):
    own = ("train.epochs=10", "log.health_every=0", "train.checkpoint_every=1000")
    assert finetune(pretrained, tmp_path / "whole", *own) == 0
    out = tmp_path / "run"
    words = typed(pretrained, out, *own)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75, errors
    assert "the same command continues the run" in errors
    (stopped,) = (out / "checkpoints").glob("step-*")
    assert 3 <= int(stopped.name.removeprefix("step-")) < 40
    assert not (out / "evaluation.json").exists(), "only a run that came to its end is evaluated"
    assert finetune(pretrained, out, *own) == 0
    whole = final_weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[key]) for key, value in final_weights(out).items())


def test_a_checkpoint_is_a_source_like_its_run(pretrained):
    checkpoint = max((pretrained / "checkpoints").iterdir())
    config = finetune_settings(checkpoint, [])
    assert config.init.from_ == str(checkpoint)
    assert config.output == f"{pretrained}-finetuned"
    assert config.model == finetune_settings(pretrained, []).model


def test_drop_path_of_the_pretraining_is_not_copied(pretrained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    written = yaml.safe_load((pretrained / "config.yaml").read_text())
    written["model"]["encoder_kwargs"]["drop_path_rate"] = 0.3
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    config = finetune_settings(run, ["finetune.drop_path=0.2"])
    assert "drop_path_rate" not in model_of(config).encoder_kwargs
    with pytest.raises(UserError, match=r"drop_path_rate: is set elsewhere \(finetune.drop_path"):
        finetune_settings(run, ["model.encoder_kwargs={drop_path_rate: 0.1}"])


def test_held_out_classes_of_other_names_are_refused_at_once(
    pretrained, tmp_path, make_shards, capsys
):
    """Also by a dry run, which checks everything that a run does."""
    shards = [make_shards(tmp_path / name, 16, size=(20, 24)) for name in ("a", "b")]
    names = [f"class {number}" for number in range(10)]
    (tmp_path / "a" / "classes.txt").write_text("\n".join(names))
    (tmp_path / "b" / "classes.txt").write_text("\n".join(["other", *names[1:]]))
    settings = [f"data.train={shards[0]}", f"data.val={shards[1]}", f"output={tmp_path}/run"]
    for more in ([], ["--dry-run"]):
        assert main(["finetune", str(pretrained), *settings, "train.batch_size=8", *more]) == 2
        assert "data.val: 1 class is not in data.train: other (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_images_of_one_class_are_refused(pretrained, make_tar, make_image, tmp_path, capsys):
    """A classifier of them would be right on every image."""
    file = io.BytesIO()
    Image.fromarray(make_image(0)).save(file, "PNG")
    members = [(f"{n}.png", file.getvalue()) for n in range(12)]
    one = make_tar(tmp_path / "a.tar", [*members, *((f"{n}.cls", b"1") for n in range(12))])
    for settings in ((), ("finetune.num_classes=3",)):
        assert finetune(pretrained, tmp_path / "run", f"data.train={one}", *settings) == 2
        assert "data.train: all 12 images are of class 1: one class" in capsys.readouterr().err


def test_held_out_classes_without_a_training_image_are_named(
    pretrained, make_tar, make_image, tmp_path, capsys
):
    """No answer on them can be right, whatever the accuracy says of the classifier."""

    def shard(name, labels):
        members = []
        for number, label in enumerate(labels):
            file = io.BytesIO()
            Image.fromarray(make_image(number + 50 * (name == "val"))).save(file, "PNG")
            members += [(f"{number}.png", file.getvalue()), (f"{number}.cls", str(label).encode())]
        (tmp_path / name).mkdir()
        (tmp_path / name / "classes.txt").write_text("a\nb\nc\n")
        return make_tar(tmp_path / name / "a.tar", members)

    train, val = shard("train", [0, 2] * 6), shard("val", [0, 1, 1, 2])
    words = (f"data.train={train}", f"data.val={val}", "--dry-run")
    assert finetune(pretrained, tmp_path / "run", *words) == 0
    assert (
        "warning: 2 of 4 images of data.val are of classes without a training image, so that no "
        "answer can be right: b\n"
    ) in capsys.readouterr().out
