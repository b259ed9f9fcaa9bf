"""Every command that takes a run, on released weights: a file, and exports of it."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mae.cli import main
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.transform import stack
from mae.data.views import CentredViews
from tests.pretrained_weights.released import (
    CLASSES,
    SIDE,
    fine_tuned,
    official_names,
    vitmae,
    write_release,
)
from tests.pretrained_weights.test_opened import normalised, prediction_of, tokens_of

HEADS = ["--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_shards, make_image):
    """Shards, a picture and released weights: pretrained, of an encoder alone, fine-tuned."""
    folder = tmp_path_factory.mktemp("released")
    tensors = official_names(vitmae())
    encoder = {k: v for k, v in tensors.items() if "decoder" not in k and k != "mask_token"}
    Image.fromarray(make_image(0)).save(folder / "a.png")
    return {
        "full": write_release(folder / "mae_visualize_vit_tiny.pth", tensors, norm_pix_loss=True),
        "encoder": write_release(folder / "encoder.pth", encoder),
        "avg": write_release(folder / "avg.pth", fine_tuned("avg").state_dict()),
        "token": write_release(folder / "token.pth", fine_tuned("token").state_dict()),
        "train": make_shards(folder / "train", 36, shard_size=36, size=(40, 44)),
        "test": make_shards(folder / "test", 15, shard_size=15, size=(38, 42)),
        "picture": folder / "a.png",
        "folder": folder,
    }


LABELLED = "--train {train} --test {test}"
COMMANDS = [
    ("reconstruct {full} {test} --out {out}/r.png", ["r.png", "r.json"]),
    ("attention {encoder} {picture} --out {out}/a.png", ["a.png"]),
    ("pca {encoder} {test} --out {out}/p.html", ["p.html"]),
    ("neighbours {encoder} {test} --among {train} --out {out}/n.png", ["n.png"]),
    ("features {encoder} {test} --tokens --out {out}/f.safetensors", ["f.safetensors"]),
    (f"knn {{encoder}} {LABELLED} --baselines --out {{out}}/k.json", ["k.json"]),
    (f"probe {{encoder}} {LABELLED} --splits 1 --out {{out}}/l.json", ["l.json"]),
    (
        f"probe {{encoder}} {LABELLED} --protocol mae --epochs 1 --step-batch 12 "
        "--out {out}/m.json",
        ["m.json", "probe-mae/metrics.jsonl"],
    ),
    (f"fewshot {{encoder}} {LABELLED} --shots 2 --percent --splits 1 --out {{out}}/w.json", []),
    (
        f"attentive {{encoder}} {LABELLED} --epochs 1 --batch-size 16 --out {{out}}/t.json",
        ["t.json", "attentive/metrics.jsonl"],
    ),
    ("evaluate {avg} --test {test} --out {out}/e.json", ["e.json", "e-confusion.png"]),
    ("export {full} {out}/timm --images {test}", ["timm/decoder.safetensors"]),
    ("export {full} {out}/mae --format mae --images {test}", ["mae/mae.pth"]),
    ("export {full} {out}/hf --format hf --images noise", ["hf/encoder/config.json"]),
    ("export {full} {out}/plain --format plain --images noise", ["plain/config.json"]),
    ("export {encoder} {out}/alone --images noise --img-size 64", ["alone/config.json"]),
    ("export {token} {out}/classes --images noise", ["classes/config.json"]),
]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("line", "makes"), COMMANDS, ids=lambda one: str(one).partition(" --")[0])
def test_a_command_takes_released_weights(line, makes, files, tmp_path, capsys):
    words = [word.format(**files, out=tmp_path) for word in line.split()]
    assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert re.search(r"weights \d+ of \d+ (encoder|classifier) tensors", printed.err)
    is_released = "{full}" in line
    warned = "licence CC-BY-NC-4.0: not for commercial use" in printed.err
    assert warned == is_released
    for name in makes:
        assert (tmp_path / name).stat().st_size > 100, name
    if is_released and line.startswith("export"):
        card = (tmp_path / line.split()[2].rpartition("/")[2] / "README.md").read_text()
        assert "license: cc-by-nc-4.0" in card and "It forbids commercial use" in card
        assert "images seen" not in card and "not by mae" in card


def views(files) -> torch.Tensor:
    """Centred views of the test images, by the crop of the paper's evaluation."""
    images = Images(build_manifest([files["test"]], "test"), 3)
    centred = CentredViews(images, (SIDE, SIDE), 0.875)
    return stack([centred.view(number) for number in range(len(images.manifest))])


@torch.no_grad()
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_evaluate_agrees_with_timm(pool, files, tmp_path, capsys):
    out = tmp_path / "e.json"
    words = ["evaluate", str(files[pool]), "--test", files["test"], "--out", str(out)]
    assert main([*words, *HEADS]) == 0
    logits = fine_tuned(pool)(normalised(views(files)))
    labels = Images(build_manifest([files["test"]], "test"), 3).manifest.label
    report = json.loads(out.read_text())
    right = (logits.argmax(1).numpy() == labels).mean()
    assert report["accuracy"] == pytest.approx(right)
    assert report["step"] is None and len(report["weights"]) >= 3
    assert "compared by number: no class names (classes.txt) of" in capsys.readouterr().out


def test_class_names_must_agree(files, tmp_path, capsys, make_shards):
    shards = make_shards(tmp_path / "named", 9, shard_size=9, size=40)
    beside = tmp_path / "avg.pth"
    beside.write_bytes(files["avg"].read_bytes())
    words = ["evaluate", str(beside), "--test", shards, "--out", str(tmp_path / "e.json"), *HEADS]
    theirs, ours = tmp_path / "named" / "classes.txt", tmp_path / "classes.txt"
    theirs.write_text("cat\ndog\nbird\ncow\n")
    assert main(words) == 2
    assert f"names 4 classes, {beside} has {CLASSES} without names" in capsys.readouterr().err
    theirs.write_text("cat\ndog\nbird\n")
    assert main(words) == 0
    assert "compared by number" in capsys.readouterr().out
    ours.write_text("dog\ncat\nbird\n")
    assert main(words) == 0
    assert "matched by name" in capsys.readouterr().out
    ours.write_text("plane\ncar\nship\n")
    assert main(words) == 2


@torch.no_grad()
def test_features_agree_with_transformers(files, tmp_path):
    from safetensors.numpy import load_file

    out = tmp_path / "f.safetensors"
    assert main(["features", str(files["encoder"]), files["test"], "--out", str(out), *HEADS]) == 0
    expected = tokens_of(vitmae(), normalised(views(files)))
    found = load_file(out)
    np.testing.assert_allclose(found["cls"], expected[:, 0].numpy(), atol=5e-3)
    np.testing.assert_allclose(found["mean"], expected[:, 1:].mean(1).numpy(), atol=5e-3)


@torch.no_grad()
@pytest.mark.usefixtures("in_process")
def test_reconstructions_agree_with_transformers_and_through_every_export(files, tmp_path):
    """R² of the file, by hand, and of its exports read back."""
    from mae.base.hashing import Stream, fold
    from mae.base.tensor_hashing import as_tensor
    from mae.networks.patches import patchify
    from mae.objectives.mae.masking import random_masking

    def r2(source, *options) -> float:
        out = tmp_path / "r.png"
        assert main(["reconstruct", str(source), files["test"], "--out", str(out), *options]) == 0
        return json.loads(out.with_suffix(".json").read_text())["model"]

    images = views(files)
    seeds = as_tensor(fold(0, Stream.PANEL, torch.arange(len(images)).numpy()))
    split = random_masking(seeds, (SIDE // 8) ** 2, 0.75)
    target = patchify(normalised(images), (8, 8))
    target = target.gather(1, split.ids_masked[:, :, None].expand(-1, -1, target.shape[2]))
    mean, variance = target.mean(2, keepdim=True), target.var(2, keepdim=True)
    target = (target - mean) / (variance + 1e-6).sqrt()
    error = (prediction_of(vitmae(), normalised(images), split) - target).square().sum()
    expected = float(1 - error / (target - target.mean()).square().sum())
    assert r2(files["full"]) == pytest.approx(expected, rel=2e-3)
    for form in ("timm", "mae", "hf", "plain"):
        words = ["export", str(files["full"]), str(tmp_path / form), "--format", form]
        assert main([*words, "--images", "noise"]) == 0
        place = tmp_path / form / "mae.pth" if form == "mae" else tmp_path / form
        assert r2(place) == pytest.approx(r2(files["full"]), rel=1e-4), form


REFUSALS = [
    ("reconstruct {encoder} {test}", "holds no decoder, which reconstructions need"),
    ("reconstruct {avg} {test}", "no reconstructions"),
    ("evaluate {encoder} --test {test}", "holds no classifier (head.weight, head.bias)"),
    ("export {encoder} {out}/x", "--images: these weights name no images of their training"),
    ("export {encoder} {out}/x --format plain --images noise", "these weights have no decoder"),
    ("knn {run} --train {train} --test {test} --num-heads 3", "has settings of its own"),
    ("knn {folder}/gone.pth --train {train} --test {test}", "no such file or folder"),
    ("knn timm:nix --train {train} --test {test}", "timm has no such model"),
    ("attention {encoder} {test} --num-heads 5", "--num-heads: 5 heads do not divide the width"),
]


@pytest.mark.parametrize(("line", "words"), REFUSALS, ids=lambda one: one[:40])
def test_wrong_use_is_refused_in_one_line(line, words, files, reference_run, tmp_path, capsys):
    names = {**files, "out": tmp_path, "run": reference_run.folder}
    assert main([word.format(**names) for word in line.split()]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert all(one.startswith("weights ") for one in before)
    assert last.startswith("mae: ") and words in last
    assert "init.from" not in last


def test_other_heads_are_other_features(files, tmp_path):
    """Features are cached by weights, which do not show the number of heads."""
    results = []
    for heads in ("3", "6"):
        words = ["knn", str(files["encoder"]), "--train", files["train"], "--test", files["test"]]
        out = tmp_path / f"{heads}.json"
        assert main([*words, "--num-heads", heads, "--out", str(out)]) == 0
        results.append(json.loads(out.read_text())["encoder"])
    assert results[0] != results[1]
    assert len(list((tmp_path / "features").iterdir())) == 4


@pytest.mark.parametrize("command", ["attention", "pca", "neighbours", "export"])
def test_several_processes_are_refused(command, files, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = {
        "attention": [files["picture"]],
        "pca": [files["test"]],
        "neighbours": [files["test"], "--among", files["train"]],
        "export": ["out"],
    }[command]
    assert main([command, str(files["encoder"]), *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{command} runs in one process, and each of 2 would do all of its work" in line
