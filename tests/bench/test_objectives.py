"""`mae bench` of objectives other than the default one, and of what it cannot measure."""

import json
from pathlib import Path

import pytest

from mae.bench import joint, overhead
from mae.bench.attention import attentions
from mae.bench.cases import Case
from mae.bench.children import Children
from mae.bench.overhead import bench_overhead
from mae.bench.rounds import gflop_per_image
from mae.bench.synthetic import build, synthetic_images
from mae.bench.training_step import build_step
from mae.cli import main
from mae.config.loading import load_config
from mae.objectives.registry import OBJECTIVES

TOY = """\
objective: toy
data: {img_size: 16, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
train: {batch_size: 4, num_processes: 2}
log: {every: 2, wandb: false}
"""
CLASSIFIER = """\
objective: classifier
model:
  encoder: vit_tiny_patch16_224
  encoder_kwargs: {embed_dim: 32, depth: 2, num_heads: 2}
  patch_size: 4
data: {img_size: 16}
finetune: {num_classes: 3}
"""
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "toy", "tests.toy")


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


@pytest.fixture
def classifier(tmp_path):
    path = tmp_path / "classifier.yaml"
    path.write_text(CLASSIFIER)
    return path


def case(path: Path, **options) -> Case:
    return Case(config_file=str(path), batch_size=4)._replace(**options)


@pytest.mark.parametrize("name", ["toy", "classifier"])
def test_its_step_is_measured(name, request):
    one = case(request.getfixturevalue(name))
    step = build_step(one)
    losses = [step().item() for _ in range(3)]
    assert all(loss > 0 for loss in losses) and len(set(losses)) == 3
    assert gflop_per_image(one) > 0
    assert one.model == name


def test_options_win_over_the_file(toy):
    config = case(toy, img_size=32, mode="compile", precision="bf16").config()
    assert config.data.img_size == (32, 32) and config.train.precision == "bf16"
    assert config.train.compile is True and config.train.batch_size == 4
    assert config.train.num_processes == 0  # of the run, not of one step
    assert case(toy, settings="model.beta=0.5").config().model_dump()["model"]["beta"] == 0.5
    assert case(toy).config().data.img_size == (16, 16)


def test_its_processes_know_it(toy):
    with Children({"toy": case(toy)._asdict()}, ON_CPU, 1) as children:
        assert children["toy"].round(0.01)["seconds"] > 0


def test_what_watching_adds_is_measured_with_its_panels(toy, monkeypatch):
    drawn = []
    draw = overhead.draw_panel
    monkeypatch.setattr(overhead, "draw_panel", lambda *words: drawn.append(1) or draw(*words))
    config = load_config(toy, ["train.num_processes=0"])
    result = bench_overhead(config, rounds=1)
    assert len(drawn) == 2 and result["panel_ms"] > 0 and result["step_ms"] > 0
    assert json.loads(json.dumps(result))["model"].startswith("toy, ")


def test_an_objective_without_panels_has_none(classifier):
    config = load_config(classifier, ["train.batch_size=2", "log.every=2", "log.wandb=false"])
    assert bench_overhead(config, rounds=1)["panel_ms"] == 0


def test_attention_of_a_plain_vision_transformer(classifier):
    objective = build(case(classifier).config())
    (only,) = attentions(objective)
    assert only == ("encoder", 2, 17, 17, 16, 2)  # a class token and 16 patches, two blocks


def test_images_have_the_bits_of_the_settings(toy):
    sixteen = ["data.bits=16", "data.in_chans=2", "data.mean=[0.5, 0.5]", "data.std=[1, 1]"]
    images = synthetic_images(load_config(toy, sixteen), (8, 8), 64)
    assert images.shape == (64, 2, 8, 8) and images.int().max() > 255


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention", "--config", "toy"], "objective toy has no attention layers"),
        (["joint", "x.tar", "--config", "classifier"], "mae finetune trains objective classifier"),
        (
            ["profile", "--config", "classifier", "--settings", "finetune.num_classes=0"],
            "takes finetune.num_classes from its training data",
        ),
        (["overhead", "classifier", "train.batch_size=3"], "bench: 3 images at a time; mixup"),
        (["step", "--config", "classifier", "--batch-sizes", "3"], "bench: 3 images at a time;"),
        (["step", "--config", "toy", "--models", "a"], "--config describes the model: leave --mod"),
        (["profile", "--config", "toy", "--decoder-depth", "2"], "leave --decoder-depth out"),
        (["step", "--config", "none"], "none: no such config file"),
        (["profile", "--settings", "objective=classifier"], "model.decoder_depth: unknown key"),
        (["step", "--variants", "objective=none"], "objective: no 'none'"),
    ],
)
def test_refusals_are_one_line(words, message, toy, classifier, capsys):
    paths = {"toy": str(toy), "classifier": str(classifier)}
    words = ["bench", *(paths.get(word, word) for word in words)]
    assert main([*words, *(["--device", "cpu"] if words[1] != "overhead" else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mae: ") and message in line


def test_the_loop_keeps_the_files_settings_but_for_its_data(toy):
    config = case(toy, settings="data.val=no.tar,init.from=no/run").config()
    found = joint.config_on(config, ["a.tar"], 2, "crop", None)
    assert found.data.train == ("a.tar",) and found.data.val == () and not found.init.from_
    assert found.data.img_size == (16, 16) and found.data.crop_on_device
    assert found.data.mean == (0.5, 0.5, 0.5) and found.data.workers == 2


def test_no_comparison_with_others_is_left_in_the_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "peers"])
    assert stopped.value.code == 2
