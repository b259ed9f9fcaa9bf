"""Runs on pairs by the command line: trained, evaluated against the second image, drawn."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
from tests.objectives.autoencoders.recipes import train
from tests.runs import metrics_of


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, make_tar) -> str:
    """Shard of 12 pairs of a noisy and a clean image."""
    members = []
    for number in range(12):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[0:24, 0:28] / 28
        clean = np.stack([128 + 80 * np.sin(3 * x + c) * np.cos(4 * y + number) for c in range(3)])
        for end, pixels in (("a", clean + rng.normal(0, 25, clean.shape)), ("b", clean)):
            file = io.BytesIO()
            stored = np.moveaxis(pixels, 0, -1).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(stored).save(file, "PNG")
            members.append((f"{number:03d}.{end}.png", file.getvalue()))
    return str(make_tar(tmp_path_factory.mktemp("pairs") / "pairs.tar", members))


@pytest.mark.parametrize("method", ["noise2void", "noise2noise"])
def test_a_run_on_pairs_is_evaluated_against_the_second_images(method, pairs, tmp_path, capsys):
    run = tmp_path / "run"
    evaluated = [f"data.val={pairs}", "log.health_every=1", "train.epochs=3"]
    strict = ["model.allow_correlated=false", f"model.method={method}"]
    train("noise2void", pairs, run, *evaluated, *strict)
    assert len(metrics_of(run)) == 5  # 40 of the 12 first images, in batches of 8
    row = json.loads((run / "health.jsonl").read_text().splitlines()[-1])
    assert row["images"] == 12 and row["psnr_noisy"] == pytest.approx(20.3, abs=0.5)
    assert row["psnr"] > 5 and ("psnr_interpolated" in row) == (method == "noise2void")
    out = tmp_path / "r.png"
    assert main(["reconstruct", str(run), pairs, "--out", str(out), "--count", "3"]) == 0
    printed = capsys.readouterr().out
    assert "PSNR against the second image" in printed and Path(out).stat().st_size > 1000
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["images"] == 12 and found["psnr_noisy"] == pytest.approx(row["psnr_noisy"], 1e-3)
    assert main(["reconstruct", str(run), pairs, "--columns", "removed", "--out", str(out)]) == 0
    assert main(["reconstruct", str(run), pairs, "--mask", "grid", "--out", str(out)]) == 2
    assert "noise2void has no masks to choose" in capsys.readouterr().err


def test_single_images_are_denoised_by_what_pairs_taught(pairs, tmp_path, make_tar, capsys):
    run, out = tmp_path / "run", str(tmp_path / "r.png")
    paired = "model.method=noise2noise", "model.allow_correlated=false"
    train("noise2void", pairs, run, *paired, "model.noise_autocorrelation=0.4")
    assert "noise_autocorrelation: null" in (run / "config.yaml").read_text()  # none was measured
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 28, 3), np.uint8))
    for name in ("one.png", "one.jpg"):
        image.save(tmp_path / name)
    shard = str(make_tar(tmp_path / "s.tar", [("one.png", (tmp_path / "one.png").read_bytes())]))
    for source in (shard, str(tmp_path / "one.png")):
        assert main(["reconstruct", str(run), source, "--out", out]) == 0
        assert "predicted noisy pixels" not in capsys.readouterr().out
    assert main(["reconstruct", str(run), str(tmp_path / "one.jpg"), "--out", out]) == 2
    assert "one.jpg: is compressed with loss" in capsys.readouterr().err
    train("noise2void", pairs, tmp_path / "no", *paired, f"data.val={shard}", code=2)
    assert "data.val: no pairs" in capsys.readouterr().err
