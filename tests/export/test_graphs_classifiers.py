"""Export of a fine-tuned classifier as a graph of its logits, with averaged weights."""

import json
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from mae.cli import main
from mae.data.class_names import write_class_names
from mae.objectives.classifier.declaration import finetune_of
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


NAMES = ("cat", "big dog", "Küken\n")
SHOWN = ["cat", "big dog", "Küken\\n"]
"""as exports hold them: printable"""


@pytest.fixture
def named_run(tmp_path):
    """Run folder with class names."""
    run = untrained_run(tmp_path / "run", classifier_config())
    write_class_names(NAMES, run)
    return run


def test_timm_and_transformers_read_the_class_names(named_run, tmp_path, in_process):
    out = tmp_path / "out"
    assert main(["export", str(named_run), str(out), "--images", "noise"]) == 0
    assert json.loads((out / "config.json").read_text())["label_names"] == SHOWN
    model: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == SHOWN
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert theirs.config.id2label == dict(enumerate(SHOWN))
    assert theirs.config.label2id == {name: number for number, name in enumerate(SHOWN)}
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images).logits, model(images))


def test_a_thousand_classes_without_names_are_not_imagenets(tmp_path, in_process):
    config = classifier_config()
    finetune = finetune_of(config).model_copy(update={"num_classes": 1000})
    run = untrained_run(tmp_path / "run", config.model_copy(update={"finetune": finetune}))
    assert main(["export", str(run), str(tmp_path / "out"), "--images", "noise"]) == 0
    transformers = pytest.importorskip("transformers")
    found = transformers.AutoConfig.from_pretrained(tmp_path / "out").id2label
    assert found[0] == "0" and found[999] == "999" and len(found) == 1000


@pytest.mark.parametrize("format", ["onnx", "torch", "plain"])
def test_other_formats_keep_the_class_names(format, named_run, tmp_path, in_process, capsys):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    words = ["export", str(named_run), str(out), "--images", "noise", "--format", format]
    assert main(words) == 0
    if format == "plain":
        assert (out / "classes.txt").read_bytes() == (named_run / "classes.txt").read_bytes()
        return
    code = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    first = next(
        i for i, line in enumerate(code) if "InferenceSession(" in line or "extra =" in line
    )
    found: dict = {}
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out / "encoder.onnx")
        assert [output.name for output in session.get_outputs()] == ["tokens", "logits"]
        found["session"] = session
        first = len(code) - 1
    exec("import json, torch\n" + "\n".join(line[2:] for line in code[first:]), found)
    assert found["names"] == SHOWN


def run_graph(format, folder, images):
    """Logits of the graph."""
    if format == "torch":
        with torch.no_grad():
            return torch.export.load(folder / "encoder.pt2").module()(images)[1]
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
