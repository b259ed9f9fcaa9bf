"""Table of the choices' benchmark, and the data that it prepares."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from benchmarks.auto_choices import SETS, case_of, grid, main
from benchmarks.auto_data import Split, digits, fashion_mnist, reduced, samples_of


def test_the_table_has_medians_and_deviations(tmp_path, capsys):
    rows = [
        {"set": "tiles", "case": case, "seed": seed, "steps": 9, "images": 1000, "seconds": 20}
        | {"probe": probe, "untrained": 0.3, "pixels": 0.25, "finetuned": 0.5}
        | ({"scratch": 0.4} if case == "auto" else {})
        for case, seed, probe in (("auto", 0, 0.41), ("auto", 1, 0.43), ("96x4/8", 0, 0.4))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["table", "--work", str(tmp_path), "--sets", "tiles"]) == 0
    printed = capsys.readouterr().out
    assert "| auto | 9 | 1,000 | 20 | 42.0 ± 1.4 | 50.0 ± 0.0 | 2 |" in printed
    assert "| 96x4/8 | 9 | 1,000 | 20 | 40.0 | 50.0 | 1 |" in printed
    assert "| auto less the best of the grid | | | | +1.0 (+1.0 to +1.0; 96x4/8) | +0.0" in printed
    assert "from scratch | 0 | 0 | 0 | | 40.0 ± 0.0 | 2 |" in printed


def test_cases_are_changed_by_further_settings():
    split = Split("a.tar", "b.tar", "c.tar", 100, 100)
    assert len(grid(SETS["cifar10"])) == 6
    changed = case_of("96x4/4 by 128 optim.lr=3e-3", "cifar10", split).settings
    assert {"model.patch_size=4", "train.batch_size=128"} < set(changed)
    assert changed[-1] == "optim.lr=3e-3"


def test_fresh_images_are_others_than_those_on_which_the_rules_were_set():
    old, new = digits(fresh=False), digits(fresh=True)
    assert len(old[0]) == len(new[0]) == 1297 and len(old[2]) == len(new[2]) == 500
    assert not set(old[2]) & set(new[2]) and not set(new[0]) & set(new[2])


def test_fashion_mnist_by_its_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        with gzip.open(tmp_path / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + pixels.tobytes())
        with gzip.open(tmp_path / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + bytes([4, 9, 0]))
    train, labelled, test = fashion_mnist(tmp_path)
    assert train == labelled == test and [label for _, label in test] == [b"4", b"9", b"0"]
    assert (np.asarray(Image.open(io.BytesIO(test[2][0]))) == pixels[2]).all()


@pytest.mark.parametrize("size", [(300, 600), (600, 300), (64, 64)])
def test_photographs_are_reduced_by_their_short_side(make_tar, tmp_path, size):
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "JPEG")
    shard = make_tar(tmp_path / "a.tar", [("x.jpg", out.getvalue()), ("x.cls", b"3")])
    assert tarfile.is_tarfile(shard)
    (sample,) = samples_of([shard])
    content, label = reduced(sample)
    assert min(Image.open(io.BytesIO(content)).size) == 128 and label == b"3"
