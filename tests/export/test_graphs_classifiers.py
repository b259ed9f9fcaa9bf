"""Export of a fine-tuned classifier as a graph of its logits, with averaged weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mae.cli import main
from mae.data.class_names import write_class_names
from mae.objectives.classifier.model import Classifier
from mae.training.checkpoint.resume import load_model
from mae.training.checkpoint.trained import load_pretrained
from tests.runs import same_weights
from tests.untrained import classifier_config, earlier_layout, untrained_run


@pytest.mark.parametrize(
    ("format", "pool"), [("onnx", "avg"), ("torch", "avg"), ("torch", "token")]
)
def test_graph_gives_the_averaged_logits(format, pool, tmp_path, in_process, capsys):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    run, out = untrained_run(tmp_path / "run", classifier_config(pool)), tmp_path / "out"
    arguments = [str(run), str(out), "--format", format, "--images", "noise"]
    assert main(["export", *arguments]) == 0
    assert "the classifier of step 6, checked through " in capsys.readouterr().out

    objective = load_pretrained(run)[1]
    assert isinstance(objective, Classifier)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        averaged = objective.logits(images)
        load_model(run / "checkpoints" / "step-000000006", objective)
        last = objective.logits(images)
    found = run_graph(format, out, objective.normalize_images(images))
    torch.testing.assert_close(found, averaged, rtol=1e-4, atol=1e-4)
    assert (found - last).abs().max() > 0.1, "not the weights that were averaged"
    card = (out / "README.md").read_text()
    assert "logits of 3 classes" in card and "image-classification" in card


def test_averaged_weights_of_an_earlier_version_are_exported(tmp_path, in_process):
    run = untrained_run(tmp_path / "run", classifier_config())
    now, before = tmp_path / "now", tmp_path / "before"
    for out in (now, before):
        assert main(["export", str(run), str(out), "--images", "noise"]) == 0
        earlier_layout(run)
    one, other = (load_file(out / "model.safetensors") for out in (now, before))
    assert same_weights(one, other)


def test_class_names_are_those_of_the_run_folder(tmp_path, in_process):
    run = untrained_run(tmp_path / "run", classifier_config())
    write_class_names(("cat", "dog", "hen"), run)
    assert main(["export", str(run), str(tmp_path / "out"), "--images", "noise"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["label_names"] == ["cat", "dog", "hen"]


def run_graph(format, folder, images):
    """Second output of the graph: pooled features, here logits."""
    if format == "torch":
        with torch.no_grad():
            return torch.export.load(folder / "encoder.pt2").module()(images)[1]
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(["pooled"], {"images": images.numpy()})[0])
