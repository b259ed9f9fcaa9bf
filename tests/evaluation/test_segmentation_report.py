import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
from tests.evaluation.frozen import tiny_run
from tests.evaluation.test_segmentation import png, scene


def recoloured(folder, make_tar, numbers, draw, *, ending="mask.png", without=()):
    """Shard of scenes, whose masks are `draw`n from their classes 0 to 2."""
    folder.mkdir()
    members = []
    for number in numbers:
        pixels, classes = scene(number)
        members.append((f"{number:04d}.png", png(pixels)))
        if number not in without:
            members.append((f"{number:04d}.{ending}", draw(classes)))
    return str(make_tar(folder / "a.tar", members))


@pytest.fixture
def segment(tmp_path, make_tar, capsys):
    """`segment(draw, *options, **of_shards)` → exit code, report, what was printed."""
    run = tiny_run(tmp_path / "run")

    def call(draw, *options, name="x", **of_shards):
        train, test = (
            recoloured(tmp_path / f"{name}-{part}", make_tar, numbers, draw, **of_shards)
            for part, numbers in (("train", range(30)), ("test", range(100, 115)))
        )
        words = ["segment", str(run), "--train", train, "--test", test, "--device", "cpu"]
        out = tmp_path / f"{name}.json"
        code = main([*words, "--patches", "600", "--out", str(out), *options])
        report = json.loads(out.read_text()) if code == 0 else {}
        printed = capsys.readouterr()
        return code, report, printed.out + printed.err

    return call


def test_binary_masks_of_all_kinds_give_the_same_numbers(segment, tmp_path):
    palette = tmp_path / "names.csv"
    palette.write_text("name,value\ngood,0\ndefect,255\n")

    def binary(classes):
        return np.where(classes > 0, 255, 0).astype(np.uint8)

    def soft(classes):
        """The edge pixels are gray, on the side they belong to."""
        mask = binary(classes)
        edge = np.zeros_like(mask, bool)
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        rng = np.random.default_rng(int(mask.sum()))
        return np.where(edge, np.where(mask > 0, 250, rng.integers(0, 90)), mask).astype(np.uint8)

    def bits(classes):
        file = io.BytesIO()
        Image.fromarray(classes > 0).save(file, "PNG")
        return file.getvalue()

    code, plain, printed = segment(lambda c: png((c > 0).astype(np.uint8)), name="01")
    assert code == 0 and plain["masks"]["reading"] == "classes"
    ways = {
        "255": ((lambda c: png(binary(c))), {}),
        "soft": ((lambda c: png(soft(c))), {}),
        "bits": (bits, {}),
        "rgb": ((lambda c: png(np.repeat(binary(c)[..., None], 3, axis=2))), {}),
        "deep": ((lambda c: png(binary(c).astype(np.uint16) * 257)), {}),
        "jpeg": (
            (lambda c: png(binary(c), format="JPEG", quality=98)),
            {"ending": "mask.jpg"},
        ),
    }
    for name, (draw, more) in ways.items():
        code, report, printed = segment(draw, name=name, **more)
        assert code == 0 and report["masks"]["reading"] == "binary", printed
        assert report["results"] == plain["results"], name
        assert report["iou_by_class"] == plain["iou_by_class"]
        assert "masks: binary masks, foreground from" in printed
        names = [row["name"] for row in report["by_class"]]
        assert names == ["background", "foreground"] and report["masks"]["void"] is None
    code, report, printed = segment(ways["soft"][0], "--palette", str(palette), name="named")
    assert [row["name"] for row in report["by_class"]] == ["good", "defect"]
    assert report["results"] == plain["results"] and "\ndefect " in printed


def test_colours_and_values_by_a_table(segment, tmp_path):
    table = tmp_path / "p.csv"
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 9]], np.uint8)
    code, plain, _ = segment(png, name="numbers")
    code, _, printed = segment(lambda c: png(colours[c]), name="refused")
    assert code == 2 and "the mask is in colours" in printed and "--palette FILE" in printed
    table.write_text("name,r,g,b\nground,0,0,0\ndisc,255,0,0\nsquare,0,0,9\n")
    code, report, printed = segment(
        lambda c: png(colours[c]), "--palette", str(table), name="colours"
    )
    assert code == 0 and report["results"] == plain["results"]
    assert [row["name"] for row in report["by_class"]] == ["ground", "disc", "square"]
    table.write_text("name,value\nground,0\nshape,100\nshape,200\n")
    code, report, _ = segment(lambda c: png(c * 100), "--palette", str(table), name="values")
    assert code == 0 and [row["name"] for row in report["by_class"]] == ["ground", "shape"]


def test_gray_levels_are_refused(segment):
    rng = np.random.default_rng(0)
    code, _, printed = segment(
        lambda c: png((c * 60 + rng.integers(0, 70, c.shape)).astype(np.uint8)), name="gray"
    )
    assert code == 2 and "gray levels in one mask" in printed and "--masks binary" in printed


def test_images_without_a_mask(segment):
    without = (0, 1, 105)
    code, _, printed = segment(png, name="none", without=without)
    assert code == 2 and "2 of 30 images have no mask" in printed
    code, report, printed = segment(png, "--unmasked", "skip", name="skip", without=without)
    assert code == 0 and (report["train_images"], report["test_images"]) == (28, 14)
    assert report["without_mask"] == {"train": 2, "test": 1}
    assert "--train: 2 of 30 images have no mask: skipped" in printed
    code, report, printed = segment(png, "--unmasked", "background", name="all", without=without)
    assert (report["train_images"], report["test_images"]) == (30, 15)
    assert "--test: 1 of 15 images have no mask: taken for background" in printed


def test_defects_of_real_tiles_are_scored(shared_data, tmp_path, make_tar, capsys):
    """Masks of 0 and 255 with gray edges, from photographs of magnetic tiles."""
    parts = {"train": [], "test": []}
    with tarfile.open(shared_data / "tiles" / "test-000000.tar") as tar:
        for member in tar:
            number = int(member.name.partition("_")[2].partition(".")[0])
            if number % 8 == 0 and (file := tar.extractfile(member)) is not None:
                parts["train" if number % 16 else "test"].append((member.name, file.read()))
    train, test = (
        str(make_tar(tmp_path / f"{name}.tar", members)) for name, members in parts.items()
    )
    run = tiny_run(tmp_path / "run")
    words = ["segment", str(run), "--train", train, "--test", test, "--device", "cpu"]
    assert main([*words, "--patches", "1000"]) == 0
    report = json.loads((run / "segment.json").read_text())
    assert report["masks"]["reading"] == "binary" and report["masks"]["void"] is None
    background, defect = report["by_class"]
    assert defect["name"] == "foreground" and 0.01 < defect["test_share"] < 0.2
    assert defect["test_images"] > 5 and defect["train_patches"] > 5
    assert defect["always"] == defect["test_share"] and background["iou"] > 0.8
    for row in report["results"]:
        assert row["mean_iou_interval"][0] <= row["mean_iou"] <= row["mean_iou_interval"][1]
    assert "foreground from 128 up" in capsys.readouterr().err
