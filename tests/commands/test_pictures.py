"""The commands that draw, on a tiny run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mae.cli import main
from mae.commands.reconstruct import COLUMNS
from mae.objectives.classifier.declaration import finetune_of
from mae.objectives.mae import pictures as mae_pictures
from mae.pictures.attention import last_attention
from mae.training.checkpoint.run import Run
from tests.runs import write_config
from tests.untrained import classifier_config, tiny_config, untrained_run, write_weights


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    return make_shards(tmp_path_factory.mktemp("shards"), 24, shard_size=12, size=(20, 24))


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("run")
    assert main(["pretrain", str(write_config(folder, shards)), "train.epochs=2"]) == 0
    return folder / "run"


@pytest.fixture(scope="module", params=["avg", "token"])
def classifier(request, tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("c") / "run", classifier_config(request.param))


@pytest.fixture
def files(tmp_path, make_image):
    """Three image files; the second one is none."""
    paths = [tmp_path / f"{name}.png" for name in ("a", "bad", "c")]
    for number, path in enumerate(paths):
        Image.fromarray(make_image(number)).save(path)
    paths[1].write_text("no picture")
    return [str(path) for path in paths]


def test_the_options_name_the_columns_there_are():
    assert set(mae_pictures.COLUMNS) < set(COLUMNS)


@pytest.mark.parametrize("command", ["reconstruct", "attention", "pca", "neighbours"])
@pytest.mark.parametrize("kind", ["png", "html"])
def test_every_command_writes_what_its_name_says(command, kind, run, shards, tmp_path, capsys):
    out = tmp_path / "new" / f"sheet.{kind}"
    among = ["--among", shards, "-k", "3"] if command == "neighbours" else []
    assert main([command, str(run), shards, "--count", "2", "--out", str(out), *among]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    if kind == "png":
        with Image.open(out) as picture:
            assert picture.width > 3 * 128
    else:
        page = out.read_text()
        assert "sample-00000\nclass 0" in page and "sample-00002" not in page.split("query")[0]
    beside = {out.name, "sheet.json"} if command == "reconstruct" else {out.name}
    assert {path.name for path in out.parent.iterdir()} == beside


@pytest.mark.parametrize("command", ["attention", "pca", "neighbours"])
def test_a_classifier_is_shown_too(command, classifier, shards, tmp_path, monkeypatch):
    """A classifier's averaged weights are used where it has them."""
    encoders = []

    def spy(vit, *rest):
        encoders.append(vit)
        return last_attention(vit, *rest)

    monkeypatch.setattr("mae.pictures.attention.last_attention", spy)
    out = tmp_path / "sheet.html"
    among = ["--among", shards, "-k", "3"] if command == "neighbours" else []
    arguments = [command, str(classifier), shards, "--count", "2", "--out", str(out), *among]
    assert main(arguments) == 0
    page = out.read_text()
    assert "sample-00001" in page
    if command == "attention":
        query = {"avg": "the mean patch", "token": "the class token"}
        pool = finetune_of(Run(classifier).config()).global_pool
        assert f"Attention of {query[pool]} in the last block" in page
        (checkpoint,) = (classifier / "checkpoints").glob("step-*")
        weights = load_file(checkpoint / "model.safetensors")
        shown = encoders[0].state_dict()["blocks.1.attn.qkv.weight"]
        assert torch.equal(shown, weights["average.encoder.blocks.1.attn.qkv.weight"])


def test_reconstruction_needs_a_decoder(classifier, files, capsys):
    assert main(["reconstruct", str(classifier), *files]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    lack = "objective classifier has no reconstructions; mae reconstruct needs them"
    assert line.startswith(f"mae: {classifier}: {lack}; objectives with them: mae, ae, dae, ")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("reconstruct", "reconstruction"),
        ("attention", "attention"),
        ("pca", "pca"),
        ("neighbours", "neighbours"),
    ],
)
def test_nothing_is_written_into_a_checkpoint(command, name, run, shards, capsys):
    checkpoint = max((run / "checkpoints").glob("step-*"))
    before = sorted(checkpoint.iterdir())
    among = ["--among", shards] if command == "neighbours" else []
    assert main([command, str(checkpoint), shards, "--count", "1", *among]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}/{name}.png"
    assert (run / f"{name}.png").stat().st_size > 1000
    assert sorted(checkpoint.iterdir()) == before


def test_a_query_among_the_images_finds_itself_first(run, shards, tmp_path):
    out = tmp_path / "near.html"
    query = ["neighbours", str(run), shards, "--among", shards, "--count", "1", "-k", "2"]
    assert main([*query, "--out", str(out)]) == 0
    assert "1.000\nsample-00000\nclass 0" in out.read_text()


def test_several_ratios_are_each_printed(run, shards, tmp_path, capsys):
    out = tmp_path / "many.png"
    arguments = ["reconstruct", str(run), shards, "--mask", "block", "--out", str(out)]
    assert main([*arguments, "--mask-ratio", "0.5", "0.75"]) == 0
    written = json.loads(out.with_suffix(".json").read_text())
    assert [(row["mask"], row["hidden"]) for row in written["masks"]] == [
        ("block", 0.5),
        ("block", 0.75),
    ]
    assert written["model"] == written["masks"][0]["model"] != written["masks"][1]["model"]
    printed = capsys.readouterr().out
    assert "24 images, 50% hidden" in printed and "24 images, 75% hidden" in printed


def test_a_drawn_mask_and_chosen_columns(run, shards, tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    out = tmp_path / "drawn.html"
    arguments = ["reconstruct", str(run), shards, "--mask", str(tmp_path / "mask.png")]
    assert main([*arguments, "--columns", "masked", "error", "--out", str(out)]) == 0
    page = out.read_text()
    assert "50% of the patches are hidden" in page
    assert 'alt="masked"' in page and "original" not in page


def test_a_bad_image_is_named_and_skipped(run, files, tmp_path, capsys):
    out = tmp_path / "rest.html"
    assert main(["reconstruct", str(run), *files, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"skipped  {files[1]}: does not decode")
    assert len(printed.err.splitlines()) == 1 and "of 2 images" in printed.out
    page = out.read_text()
    assert "a.png" in page and "c.png" in page and "bad.png" not in page


def test_a_bad_image_in_a_shard_is_skipped_too(run, make_shards, tmp_path, capsys):
    pattern = make_shards(tmp_path / "shards", 4, shard_size=4, size=(20, 24))
    shard = tmp_path / "shards" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    at = data.index(b"\xff\xd8")
    data[at : at + 100] = bytes(100)
    shard.write_bytes(data)
    assert main(["attention", str(run), pattern, "--out", str(tmp_path / "a.html")]) == 0
    assert "skipped" in (written := capsys.readouterr().err) and "key sample-00000" in written
    page = (tmp_path / "a.html").read_text()
    assert "sample-00001" in page and "sample-00000" not in page


def test_flat_images_have_no_r2(run, tmp_path, capsys):
    Image.new("RGB", (20, 24)).save(tmp_path / "black.png")
    out = tmp_path / "flat.html"
    assert main(["reconstruct", str(run), str(tmp_path / "black.png"), "--out", str(out)]) == 0
    assert "1 images, 75% hidden: not defined, the hidden pixels" in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["model"] is None
    assert "R² –: hidden pixels all alike" in out.read_text()


@pytest.mark.parametrize("part", ["encoder.norm.weight", "decoder.pred.bias"])
def test_damaged_weights_are_not_drawn(part, shards, tmp_path, capsys):
    damaged = untrained_run(tmp_path / "run", tiny_config())
    (checkpoint,) = (damaged / "checkpoints").glob("step-*")
    weights = load_file(checkpoint / "model.safetensors")
    weights[part][0] = torch.nan
    write_weights(damaged, weights)
    out = tmp_path / "r.png"
    assert main(["reconstruct", str(damaged), shards, "--out", str(out)]) == 2
    assert "reconstructions are not finite: the weights are damaged" in capsys.readouterr().err
    assert not out.exists() and not out.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "{run}", "{bad}", "{bad}"], "none of 2 images is usable, first "),
        (["attention", "{run}", "{bad}"], "bad.png: does not decode"),
        (["pca", "{run}", "{good}", "--out", "x.gif"], "x.gif must end in .png or .html"),
        (["reconstruct", "{run}", "{good}", "--mask", "dots"], "--mask: dots is none of random"),
        (["reconstruct", "{run}", "{good}", "--mask-ratio", "0.99"], "hides 16 of 16 patches"),
        (["pca", "{run}", "{good}", "--out", "{good}/x.html"], "cannot be written"),
        (["neighbours", "{run}", "{good}", "--among", "no.tar"], "--among: no such shard"),
    ],
)
def test_wrong_use_is_one_line(arguments, message, run, files, capsys):
    names = {"run": run, "good": files[0], "bad": files[1]}
    assert main([argument.format(**names) for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: ") and message in line
