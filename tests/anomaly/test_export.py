"""Exported detectors: one program from decoded images to score, label and map."""

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from mae.anomaly import decoder, export, program_check
from mae.anomaly.detector import MAIN, SETTINGS, read_detector
from mae.anomaly.program import DetectorProgram
from mae.anomaly.sources import open_members
from mae.cli import main
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.export.programs import trace_module
from tests.anomaly.surfaces import SIZE, fit_words, picture, shard
from tests.evaluation.frozen import tiny_run

pytestmark = pytest.mark.usefixtures("few_patches")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surfaces")
    shard(folder / "normal.tar", 0, [0] * 16)
    shard(folder / "calibration.tar", 100, [0] * 20)
    return folder


def fitted(data, out, *options):
    assert main(fit_words(data, out, *options)) == 0
    return out


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    return fitted(data, tmp_path_factory.mktemp("detector") / "surface")


def test_onnx_program_decides_as_the_detector_on_any_size_and_batch(
    data, detector, tmp_path, capsys
):
    out = tmp_path / "program"
    assert main(["anomaly", "export", str(detector), str(out), "--format", "onnx"]) == 0
    said = capsys.readouterr().out
    assert "labels of 20 calibration images equal" in said and "fresh process" in said
    card = (out / "README.md").read_text()
    assert "uint8 [batch, 1, height, width]" in card and f'"{out.name}/detector.onnx"' in card
    session = onnxruntime.InferenceSession(str(out / "detector.onnx"))
    facts = {
        name: json.loads(value)
        for name, value in session.get_modelmeta().custom_metadata_map.items()
    }
    settings = json.loads((detector / SETTINGS).read_text())
    assert facts["class_names"] == ["normal", "anomalous"]
    assert facts["threshold"] == settings["threshold"]["value"] and facts["alpha"] == 0.05
    assert len(facts["detector_sha256"]) == 64 and "bicubic" in facts["preprocessing"]

    member = open_members(detector, read_detector(detector))[MAIN]
    program = DetectorProgram(member, facts["threshold"])
    for height, width in ((SIZE, SIZE), (61, 200)):
        pictures = [picture(n, n % 2).astype(np.uint8) for n in range(300, 304)]
        resized = [np.array(Image.fromarray(one).resize((width, height))) for one in pictures]
        images = np.stack(resized)[:, None]
        found: Any = session.run(None, {"images": images})
        score, is_anomalous, pixels = found
        with torch.no_grad():
            expected = program(torch.from_numpy(images))
        np.testing.assert_allclose(score, expected[0], rtol=1e-5)
        np.testing.assert_array_equal(is_anomalous, expected[1])
        assert pixels.shape == (4, height, width)
        np.testing.assert_allclose(pixels, expected[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        ["--scorer", "knn", "--tiles", "2"],
        ["--features", "RUN", "--scorer", "decoder"],
    ],
    ids=" ".join,
)
def test_traced_programs_have_the_scores_and_labels_of_the_calibration(
    options, data, tmp_path, monkeypatch
):
    """Detections of the graph of torch.export, in this process instead of a fresh one."""
    monkeypatch.setattr(decoder, "STEPS", 3)
    if "RUN" in options:
        run = tiny_run(tmp_path / "run")
        options = [str(run) if option == "RUN" else option for option in options]
    folder = fitted(data, tmp_path / "detector", *options)
    stored = read_detector(folder)
    member = open_members(folder, stored)[MAIN]
    images = calibration_images(data, stored)
    chosen = export.check_images(stored, images)
    threshold = stored.settings["threshold"]["value"]
    graph = trace_module(
        DetectorProgram(member, threshold), chosen.images[0][None], any_size=True
    ).module()
    inputs = {f"{program_check.IMAGE}{i:03}": one[None] for i, one in enumerate(chosen.images)}
    found = program_check.detections(graph, inputs)
    expected = torch.cat([chosen.scores, chosen.scores[:1]])
    torch.testing.assert_close(found["score"], expected, rtol=1e-5, atol=0)
    assert torch.equal(found["is_anomalous"], (expected > threshold).float())


def calibration_images(data, stored):
    manifest = build_manifest([f"{data}/calibration.tar"], "--calibration", None, None)
    return Images(manifest, stored.settings["channels"], stored.settings["bits"])


def test_a_program_that_labels_otherwise_is_not_written(data, detector, tmp_path, capsys):
    """A threshold at a calibration score, and a program that rounds differently."""
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in detector.iterdir():
        (altered / file.name).write_bytes(file.read_bytes())
    settings = json.loads((altered / SETTINGS).read_text())
    scores = read_detector(detector).calibration[MAIN]
    settings["threshold"]["value"] = float(scores.sort().values[10]) * (1 + 1e-12)
    (altered / SETTINGS).write_text(json.dumps(settings))
    words = ["anomaly", "export", str(altered), str(tmp_path / "out"), "--format", "torch"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a calibration score is within rounding of the threshold" in line
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_refused_in_one_line(data, detector, tmp_path, capsys):
    words = ["anomaly", "export", str(detector), str(tmp_path / "out")]
    assert main([*words, "--calibration", f"{data}/normal.tar"]) == 2
    assert "other images than those of the detector" in capsys.readouterr().err
    assert main(["anomaly", "export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is no detector" in capsys.readouterr().err
    assert main(["anomaly", "export", str(detector), str(detector)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in detector.iterdir():
        text = file.read_bytes().replace(str(data).encode(), b"/no/where")
        (moved / file.name).write_bytes(text)
    assert main(["anomaly", "export", str(moved), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give the shards of then by --calibration" in line
    assert not (tmp_path / "out").exists()
