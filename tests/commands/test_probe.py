"""`mae probe RUN --protocol mae` from shards to its report."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

from mae.base.errors import UserError
from mae.cli import main
from mae.config.loading import load_config, recorded_config
from mae.config.sections import DataConfig, LogConfig
from mae.data.training_data import open_training_data
from mae.data.views import CentredViews
from mae.evaluation.encoders import open_encoder
from mae.evaluation.features import image_vectors
from mae.evaluation.results import table
from mae.evaluation.usable_samples import UsableSamples
from mae.objectives import registry
from mae.objectives.attentive.tokens import EncodedTokens
from mae.objectives.linear_probe.centred_vectors import centred_vectors
from mae.objectives.linear_probe.model import LinearProbe, ProbeHead
from mae.objectives.linear_probe.report import head_ranks
from mae.training import loop
from mae.training.checkpoint.trained import load_pretrained
from mae.training.plan import make_plan
from tests.evaluation.frozen import CONFIG, images_of, tiny_encoder, tiny_objective, tiny_run
from tests.evaluation.test_features import spoil
from tests.runs import (
    completed,
    events_of,
    exit_status,
    final_weights,
    forked,
    launched,
    metrics_of,
    on_two_processes,
    run_and_kill,
    same_weights,
)
from tests.small_batches import shrink
from tests.untrained import untrained_run

RECIPE = ["--epochs", "3", "--step-batch", "8", "--device-batch", "4"]
RECIPE += ["--warmup-epochs", "1", "--blr", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    return make_shards(tmp_path_factory.mktemp("probe") / "shards", 24, size=20)


@pytest.fixture
def run(tmp_path):
    return tiny_run(tmp_path / "run")


def words(run, train, test=None):
    return ["probe", str(run), "--train", train, "--test", test or train, "--protocol", "mae"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards):
    """Run folder of a probe trained by RECIPE."""
    run = tiny_run(tmp_path_factory.mktemp("trained") / "run")
    assert main([*words(run, shards), *RECIPE]) == 0
    return run


def pixels_of(batch):
    assert isinstance(batch.images, torch.Tensor)
    return batch.images


def stream_of(folder):
    """Micro-batches of a probe's run."""
    config, data = open_training_data(recorded_config(folder))
    plan = make_plan(config, len(data.manifest), 1, 0)
    return config, plan, list(data.batches(config, plan.sharding, (16, 16), 0, plan.steps))


def test_each_epoch_sees_every_image_once_in_another_crop(trained):
    _, _, stream = stream_of(trained / "probe-mae")
    samples = torch.cat([batch.samples for batch in stream]).reshape(3, 24)
    assert samples.sort(dim=1).values.tolist() == [list(range(24))] * 3
    pixels = torch.cat([pixels_of(batch) for batch in stream])
    first, second = (pixels[epoch * 24 + samples[epoch].argsort()] for epoch in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_training_equals_a_plain_loop(trained):
    """Plain loop: BatchNorm, softmax and LARS written out, gradients summed over groups."""
    config, plan, parts = stream_of(trained / "probe-mae")
    encoder = open_encoder(trained).encoder
    weights = ProbeHead(32, 3, seed=0).linear.weight.detach().double()
    bias = torch.zeros(3, dtype=torch.float64)
    moved, moved_bias = torch.zeros_like(weights), torch.zeros_like(bias)
    mean, var = torch.zeros(32, dtype=torch.float64), torch.ones(32, dtype=torch.float64)
    assert plan.steps == 9 and plan.sharding.accumulation == 2
    for step in range(plan.steps):
        gradient, gradient_bias = torch.zeros_like(weights), torch.zeros_like(bias)
        for batch in parts[2 * step : 2 * step + 2]:
            vectors = image_vectors(encoder, pixels_of(batch)).double()
            mean, var = 0.9 * mean + 0.1 * vectors.mean(0), 0.9 * var + 0.1 * vectors.var(0)
            normal = (vectors - vectors.mean(0)) / (vectors.var(0, unbiased=False) + 1e-6).sqrt()
            chance = (normal @ weights.T + bias).softmax(1)
            error = chance - F.one_hot(batch.labels, 3)
            gradient += error.T @ normal / len(error) / 2
            gradient_bias += error.mean(0) / 2
        lr = plan.lr_at(step, config)
        moved = 0.9 * moved + 0.001 * weights.norm() / gradient.norm() * gradient
        moved_bias = 0.9 * moved_bias + gradient_bias
        weights, bias = weights - lr * moved, bias - lr * moved_bias
    head = final_weights(trained / "probe-mae")
    close = {"check_dtype": False, "rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(head["head.linear.weight"], weights, **close)
    torch.testing.assert_close(head["head.linear.bias"], bias, **close)
    torch.testing.assert_close(head["head.norm.running_mean"], mean, **close)
    torch.testing.assert_close(head["head.norm.running_var"], var, **close)
    assert len(head) == 4, "the encoder is in no checkpoint"


def test_the_run_folder_is_that_of_any_run(trained, capsys):
    folder = trained / "probe-mae"
    assert exit_status(folder)["code"] == 0
    assert [row["event"] for row in events_of(folder)] == ["start", "done"]
    assert {"loss", "accuracy", "lr"} <= metrics_of(folder)[-1].keys()
    config, probe, state = load_pretrained(folder)
    assert config.objective == "linear_probe" and state.step == 9
    assert config.data.oversized == "clamp" and config.data.scale == (0.08, 1.0)
    assert isinstance(probe, LinearProbe)
    assert probe.logits(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3)
    assert main(["report", str(folder)]) == 0


def test_killed_it_resumes_bit_for_bit(trained, run, shards):
    folder, asked = run / "probe-mae", [*words(run, shards), *RECIPE]
    run_and_kill(launched("mae", *asked), folder / "metrics.jsonl", 6, is_launcher=False)
    assert main(asked) == 0
    assert [row["event"] for row in events_of(folder)][-2:] == ["resume", "done"]
    assert same_weights(final_weights(folder), final_weights(trained / "probe-mae"))
    ours, theirs = (json.loads((one / "probe-mae.json").read_text()) for one in (run, trained))
    assert ours["results"] == theirs["results"]


def test_two_processes_test_the_same_head_also_after_a_kill(trained, tmp_path, shards):
    alone, both = (shutil.copytree(trained, tmp_path / name) for name in ("alone", "both"))
    asked = ["mae", *words(both, shards), *RECIPE]
    chain = ["tests.small_batches", "tests.killed", "1", *asked]
    ended = completed(
        forked("--import", "tests.small_batches", *chain, "--then", "tests.small_batches", *asked)
    )
    assert ended.returncode == 0 and ": resuming, " in ended.stderr, ended.stderr
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        assert main([*words(alone, shards), *RECIPE]) == 0
    ours, theirs = (json.loads((one / "probe-mae.json").read_text()) for one in (both, alone))
    assert ours["results"] == theirs["results"] and not list(both.glob(".*.parts"))


def test_a_signal_stops_it_and_the_same_command_resumes(trained, run, shards, monkeypatch, capsys):
    folder, asked = run / "probe-mae", [*words(run, shards), *RECIPE]
    step = loop.train_step

    def stop_at_five(learner, batches, now, meter):
        if now.number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, batches, now, meter)

    monkeypatch.setattr(loop, "train_step", stop_at_five)
    assert main(asked) == 75
    monkeypatch.undo()
    assert exit_status(folder)["code"] == 75 and exit_status(folder)["step"] == 5
    assert not (run / "probe-mae.json").exists()
    assert "stopped by SIGTERM after step 5" in capsys.readouterr().err

    for more, line in (
        (["--seed", "1"], "an unfinished probe with another seed (0, not 1): go back to"),
        (["--epochs", "4"], "an unfinished probe with another epochs (3.0, not 4.0): go"),
    ):
        assert main([*asked, *more]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert line in said[-1] and "delete the folder to start over" in said[-1]
    assert main(asked) == 0
    assert same_weights(final_weights(folder), final_weights(trained / "probe-mae"))


def test_changed_data_or_encoders_are_refused_or_probed_again(
    trained, run, shards, make_shards, tmp_path, capsys
):
    folder = run / "probe-mae"
    assert main([*words(run, shards), *RECIPE]) == 0
    first = (run / "probe-mae.json").read_text()
    rows = len(metrics_of(folder))
    assert main([*words(run, shards), *RECIPE]) == 0, "reported again"
    again = json.loads((run / "probe-mae.json").read_text())
    assert again["results"] == json.loads(first)["results"]
    assert len(metrics_of(folder)) == rows, "not trained again"

    (folder / "exit-status").unlink()  # as after a kill
    other = make_shards(tmp_path / "other", 26, size=20)
    assert main([*words(run, other), *RECIPE]) == 2
    assert "an unfinished probe with another training data (" in capsys.readouterr().err
    weights = tiny_run(tmp_path / "weights", 0.02)
    (run / "checkpoints").rename(run / "before")
    (weights / "checkpoints").rename(run / "checkpoints")
    assert main([*words(run, shards), *RECIPE]) == 2
    assert "an unfinished probe with another model.sha256 (" in capsys.readouterr().err
    with pytest.raises(Exception, match="not the encoder that the run was started with"):
        load_pretrained(folder)
    (folder / "exit-status").write_text('{"code": 0, "step": 9, "reason": "done"}')
    assert main([*words(run, shards), *RECIPE]) == 0, "a finished one makes way"
    assert not same_weights(final_weights(folder), final_weights(trained / "probe-mae"))
    assert [row["event"] for row in events_of(folder)] == ["start", "done"]
    assert {path.name for path in run.glob("probe-mae*")} == {"probe-mae", "probe-mae.json"}


def test_two_processes_train_the_same_probe(trained, run, shards):
    asked = [*words(run, shards), *RECIPE, "--baselines"]
    ended = completed(on_two_processes(*asked))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test images; details in ") == 1
    assert "8 = 2 processes x 1 accumulated x 4 images" in ended.stdout
    ours, theirs = (metrics_of(one / "probe-mae") for one in (run, trained))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    ours, theirs = (final_weights(one / "probe-mae") for one in (run, trained))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-5)
    assert exit_status(run / "probe-mae")["code"] == 0
    assert exit_status(run / "probe-mae-untrained")["code"] == 0
    report = json.loads((run / "probe-mae.json").read_text())
    known = json.loads((trained / "probe-mae.json").read_text())["results"][0]
    assert report["results"][0]["accuracy"] == known["accuracy"]
    assert report["results"][1]["encoder"] == "untrained"


def test_ranks_count_better_scores(shards, tmp_path):
    targets = np.arange(24) % 3
    images, encoder = images_of(shards), tiny_encoder()
    head = ProbeHead(32, 3, seed=0).eval()
    tested = centred_vectors(encoder, images, tmp_path / "out", batch_size=7)
    assert tested is not None and list(tmp_path.iterdir()) == []
    assert tested.samples.tolist() == list(range(24)) and tested.skipped == []
    ranks = head_ranks(head, tested.vectors, targets)
    views = CentredViews(images, (16, 16), CONFIG.data.crop_pct)
    pixels = torch.stack([views.view(i) for i in range(24)])
    scores = head(image_vectors(encoder, pixels)).detach().numpy()
    assert ranks.tolist() == [
        sorted(row, reverse=True).index(row[c]) for row, c in zip(scores, targets, strict=True)
    ]
    head.linear.weight.data.fill_(math.nan)
    assert (head_ranks(head, tested.vectors, targets) > 0).all()


def test_features_of_test_images_that_are_not_finite_give_no_ranks(shards, tmp_path):
    """Of a black image, which is checked before, they are."""
    encoder = tiny_encoder()

    def overflow(images):
        bright = (images > 0).any().float() * 1e30
        return {name: vectors * bright * 1e30 for name, vectors in encoder.encode(images).items()}

    broken = encoder._replace(encode=overflow)
    with pytest.raises(UserError, match="features: `pretrained` is not finite"):
        centred_vectors(broken, images_of(shards), tmp_path / "out")
    usable = UsableSamples(np.arange(24), [])
    tokens = EncodedTokens(broken, images_of(shards), "cpu", 0, usable)
    with pytest.raises(UserError, match="features: `tokens` is not finite"):
        next(iter(tokens.load([np.arange(4)])))


def test_the_report_notes_differences_from_the_published_probe(run, shards, capsys):
    assert main([*words(run, shards), "--epochs", "2", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["recipe"]["batch_size"] == 2 and report["classes"] == 3
    assert report["recipe"]["warmup_epochs"] == pytest.approx(2 / 9)
    (row,) = report["results"]
    low, high = row["interval"]
    assert 0 <= low <= row["accuracy"] <= high <= 1
    assert "top5_accuracy" not in row  # of three classes
    assert len(report["notes"]) == 4
    assert "compared by number: no class names" in report["notes"][-1]
    assert "note: a warm-up of 0.222 epochs instead of 10" in output.err
    lines = table("probe", report).splitlines()
    assert "top-1" in lines[0] and [line[:6] for line in lines[3:]] == ["note: "] * 4


def test_unmirrored_crops_are_recorded(run, shards):
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["data"]["flip"] = False
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main([*words(run, shards), *RECIPE]) == 0
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["notes"][0].startswith("crops are not mirrored, as data.flip is false")
    assert report["recipe"]["flip"] is False
    assert not load_config(run / "probe-mae" / "config.yaml").data.flip


def test_bad_images_are_skipped_or_replaced_named_and_counted(run, tmp_path, make_shards, capsys):
    train, test = (make_shards(tmp_path / name, 24, size=20) for name in ("train", "test"))
    spoil(tmp_path / "train", "sample-00007")
    spoil(tmp_path / "test", "sample-00003", "sample-00004")
    assert main([*words(run, train, test), *RECIPE]) == 0
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["train_images"] == 23 and report["test_images"] == 22
    assert [line.rpartition("key ")[2][:12] for line in report["test"]["skipped"]] == [
        "sample-00003",
        "sample-00004",
    ]
    assert "key sample-00007" in report["train"]["skipped"][0]
    assert "replaced by others: " in capsys.readouterr().err
    first = report["train"]["skipped"]
    assert main([*words(run, train, test), *RECIPE]) == 0, "no epoch is left to meet it"
    assert json.loads((run / "probe-mae.json").read_text())["train"]["skipped"] == first

    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["data"]["max_bad"] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert main([*words(run, train, test), *RECIPE]) == 2
    said = capsys.readouterr()
    assert "sample-00003: " in said.err and "more than data.max_bad = 1" in said.err
    assert "epoch" not in said.out, "before the first one"


def test_the_command_and_its_refusals(run, tmp_path, shards, make_shards, capsys):
    asked = words(run, shards)
    assert main([*asked, "--epochs", "1", "--baselines", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "warning: 24 of the test images are in --train too" in printed.err
    assert "above untrained" in printed.out and "note: a warm-up of 0.111 epochs" in printed.out
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["command"] == "probe" and report["step"] == 3
    assert report["test_images_in_train"] == 24 and report["selection"].startswith("none")
    assert len(report["encoder"]["encoder"]) == 64 and report["versions"]["torch"]
    ours, untrained = report["results"]
    assert [ours["encoder"], untrained["encoder"]] == ["pretrained", "untrained"]
    assert ours["feature"] == untrained["feature"] == "cls"
    above = ours["above"]["untrained"]
    assert above["difference"] == pytest.approx(ours["accuracy"] - untrained["accuracy"])
    assert above["interval"][0] <= above["difference"] <= above["interval"][1]
    bare = make_shards(tmp_path / "bare", 3, labels=False)
    for more, line in (
        (["--splits", "2"], "--splits: only for --protocol fast"),
        (["--batch-size", "2"], "--batch-size: only for --protocol fast"),
        (["--per-class", "2"], "--per-class: only for --protocol fast"),
        (["--classes", "4"], "--train: 3 classes, not --classes 4: none is of 3"),
        (["--classes", "2"], "--train: class 2 is not one of --classes 2 (0 to 1)"),
        (["--epochs", "5", "--warmup-epochs", "5"], "--warmup-epochs: 5, but --epochs is only 5"),
        (["--step-batch", "25"], "--step-batch: 25 is not in 2..24, the images of --train"),
        (["--test", bare], "--test: 3 of 3 samples have no label (.cls), first"),
        (["--device", "cpu:0"], "--device cpu:0: the launcher gives each process its GPU"),
    ):
        assert main([*asked, *more]) == 2
        assert line in capsys.readouterr().err
    for option in ("--epochs", "--step-batch", "--blr", "--warmup-epochs", "--device-batch"):
        assert main([*asked[:6], option, "2"]) == 2
        assert f"{option}: only for --protocol mae" in capsys.readouterr().err
    assert main(["probe", *asked[2:]]) == 2
    assert "needs RUN" in capsys.readouterr().err


def test_an_export_is_probed_into_its_own_folder(tmp_path, shards):
    objective, out = tiny_objective(), tmp_path / "export"
    out.mkdir()
    encoder = objective.get_submodule("encoder")
    save_file(encoder.state_dict(), out / "model.safetensors")
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": [16, 16], "patch_size": 4}
    reading = {"input_size": [3, 16, 16], "crop_pct": 0.875, "mean": [0.5] * 3, "std": [0.25] * 3}
    described = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": {**sizes, "global_pool": "token"},
        "pretrained_cfg": {**reading, "first_conv": "patch_embed.proj", "classifier": "head"},
    }
    (out / "config.json").write_text(json.dumps(described))
    assert main([*words(out, shards), *RECIPE]) == 0
    folder = tmp_path / "export-evaluations"
    assert {path.name for path in folder.iterdir()} == {"probe-mae", "probe-mae.json"}
    assert recorded_config(folder / "probe-mae").log.trackers == ()
    report = json.loads((folder / "probe-mae.json").read_text())
    assert report["results"][0]["feature"] == "cls"


def test_any_objective_can_be_probed(tmp_path, shards, monkeypatch, capsys):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
    data = DataConfig(workers=0, img_size=(16, 16))
    log = LogConfig(trackers=())
    config = registry.config_type("toy")(objective="toy", data=data, log=log)
    run = untrained_run(tmp_path / "toy", config)
    assert main([*words(run, shards), *RECIPE]) == 0
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["results"][0]["feature"] == "latents"
    capsys.readouterr()
    given = ["--train", shards, "--test", shards, "--device", "cpu"]
    assert main(["attentive", str(run), *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "toy: objective toy has no patch tokens; mae attentive needs them" in said[-1]
