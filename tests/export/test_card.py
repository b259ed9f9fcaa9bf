import json

import pytest

from mae.export.card import model_card, read_facts
from mae.export.check import load_timm
from mae.export.contract import ExportFiles
from mae.objectives.registry import declaration
from mae.training.checkpoint.checkpoint_files import TrainingState
from mae.training.checkpoint.run import Run
from tests.export.models import NO_FACTS, export_request

WRITTEN = ExportFiles(
    inputs={},
    expected={},
    tolerance=0,
    reader="timm",
    files="The files.",
    code="import timm\n",
    loader=load_timm,
    library="timm",
)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    write(
        run.metrics_file,
        {"step": 4, "epoch": 2.0, "samples": 40, "loss": 0.5, "r2": 0.4},
        {"step": 8, "epoch": 4.0, "samples": 80, "loss": 0.25, "r2": 0.7},
        {"step": 12, "epoch": 6.0, "samples": 120, "loss": 0.1, "r2": 0.9},
    )
    health = {"step": 8, "images": 500, "r2": 0.61, "r2_interpolation": 0.42, "r2_patch_mean": None}
    write(run.health_file, health)
    rows = [
        {"encoder": "pretrained", "feature": "cls", "per_class": None, "accuracy": 0.75}
        | {"interval": [0.701, 0.792]},
        {"encoder": "untrained", "feature": "cls", "per_class": None, "accuracy": 0.5},
        {"encoder": "pretrained", "feature": "cls", "per_class": 5, "accuracy": 0.625}
        | {"deviation": 0.011},
    ]
    write(tmp_path / "probe.json", {"step": 8, "test_images": 1200, "results": rows})
    write(tmp_path / "knn.json", {"step": 4, "results": rows})
    dense = [
        {"classifier": "linear", "of": unit, "mean_iou": 0.5, "mean_iou_interval": [0.48, 0.53]}
        | {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}
        for unit in ("patches", "pixels")
    ]
    write(tmp_path / "segment.json", {"step": 8, "test_images": 320, "results": dense})
    attentive = {"step": 8, "accuracy": 0.8, "interval": [0.7, 0.9], "images": 90}
    write(tmp_path / "attentive.json", attentive)
    write(tmp_path / "untrained.json", attentive | {"untrained": True})
    return run


def test_facts_are_of_the_exported_step(run):
    facts = read_facts(run, TrainingState(8, 80, "f"), declaration("mae"))
    assert facts.images == 20
    assert facts.results == [
        ("training loss, step 8", "0.2500, R² 0.700"),
        (
            "R² on hidden patches of 500 held-out images, step 8",
            "model 0.610, interpolation 0.420",
        ),
        (
            "attentive, labels: all",
            "test accuracy 80.0% (70.0–90.0, 90 images)",
        ),
        (
            "probe, cls, labels: all",
            "test accuracy 75.0% (70.1–79.2, 1,200 images)",
        ),
        (
            "probe, cls, labels: 5 per class",
            "test accuracy 62.5% ± 1.1 (1,200 images)",
        ),
        (
            "segment, linear of frozen tokens, at patches",
            "mean IoU 50.0% (48.0–53.0, 320 images)",
        ),
        (
            "segment, linear of frozen tokens, at pixels",
            "mean IoU 50.0% (48.0–53.0, 320 images)",
        ),
    ]


def test_damaged_files_give_no_facts(tmp_path):
    run = Run(tmp_path)
    run.metrics_file.write_text('[1]\n{"step": 1, "lo')
    (tmp_path / "probe.json").write_text('{"step": 8, "results": [3, {"encoder": "pretrained"}]}')
    (tmp_path / "init.json").write_text("nothing")
    assert read_facts(run, TrainingState(8, 80, "f"), declaration("mae")) == NO_FACTS


def test_card_has_use_training_and_results(run):
    facts = read_facts(run, TrainingState(8, 80, "f"), declaration("mae"))
    card = model_card(export_request(), facts, WRITTEN, "timm computed the same on …")
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert "library_name: timm" in head and "license" not in head
    for part in (
        "```python\nimport timm\n```",
        "Timm computed the same",
        "from scratch, 56 images seen in 7 steps",
        "mask ratio 0.75, predicts pixels normalised per patch",
        "mean [0.1, 0.2",
        "20 images of `s.tar`; fingerprint ffffffffffffffff",
        "| probe, cls, labels: all | test accuracy 75.0% (70.1–79.2, 1,200 images) |",
        "no other weights were used",
        "blr 0.00015",
    ):
        assert part in body, part
    assert "{" not in body.replace("{'embed_dim': 32, 'depth': 2, 'num_heads': 2}", "")
    plain = model_card(export_request(img_size=(24, 24)), NO_FACTS, WRITTEN, "x")
    assert "## Results" not in plain
    assert "trained at 16 x 16 px, positions interpolated" in plain


@pytest.mark.parametrize(
    ("init", "lines"),
    [
        (
            {
                "from": "timm:vit_base_patch16_224.mae",
                "license": "CC-BY-NC-4.0",
                "non_commercial": True,
                "keys_loaded": 150,
                "sha256": "abc",
            },
            [
                "license: cc-by-nc-4.0",
                "from `timm:vit_base_patch16_224.mae`, 56 images",
                "(150 tensors, sha256 abc)",
                "**It forbids commercial use of those weights, and so of these.**",
            ],
        ),
        (
            {"from": "a.pth", "license": None, "non_commercial": False},
            ["from `a.pth`", "**unknown, ask their authors**"],
        ),
    ],
)
def test_card_has_the_licence_of_initial_weights(init, lines):
    card = model_card(export_request(), NO_FACTS._replace(init=init), WRITTEN, "x")
    for part in lines:
        assert part in card, part
    assert "from scratch" not in card


def test_texts_of_a_run_are_no_markup(run):
    row = {"encoder": "pretrained", "feature": "a |\n# b <img src=x> [c](d)\x1b", "accuracy": 0.5}
    write(run.folder / "knn.json", {"step": 8, "results": [row]})
    facts = read_facts(run, TrainingState(8, 80, "f"), declaration("mae"))
    init = {"from": "`x` |\ny", "history": "h |\n# i", "license": "<b>", "sha256": "0"}
    card = model_card(export_request(), facts._replace(init=init), WRITTEN, "proof")
    assert "| knn, a \\|\\n# b &lt;img src=x> \\[c](d)\\x1b, " in card
    assert "| pretraining | h \\|\\n# i |" in card
    assert "from `'x' \\|\\ny`" in card and "**&lt;b>**" in card
