"""`mae attentive` from shards to its report."""

import json
import os
import shutil
import signal

import pytest
import torch

from mae.cli import main
from mae.evaluation.encoders import ObjectiveEncoder
from mae.objectives.attentive.model import AttentiveProbe
from mae.training import loop
from mae.training.checkpoint.trained import load_pretrained
from tests.evaluation.frozen import tiny_run
from tests.runs import (
    completed,
    events_of,
    exit_status,
    final_weights,
    forked,
    metrics_of,
    same_weights,
)

RUNS = ("attentive-choosing", "attentive")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    # 9/10 of them also divide among two processes.
    return make_shards(tmp_path_factory.mktemp("attentive") / "shards", 24, size=20)


def words(run, shards):
    given = ["attentive", str(run), "--train", shards, "--test", shards, "--device", "cpu"]
    return [*given, "--epochs", "3", "--batch-size", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards):
    """Run folder of an encoder that was probed."""
    run = tiny_run(tmp_path_factory.mktemp("trained") / "run")
    assert main(words(run, shards)) == 0
    return run


def test_both_run_folders_are_those_of_any_run(trained):
    for name, heads, steps in zip(RUNS, (10, 1), (9, 9), strict=True):
        folder = trained / name
        assert exit_status(folder)["code"] == 0 and exit_status(folder)["step"] == steps
        assert [row["event"] for row in events_of(folder)] == ["start", "done"]
        assert {"loss", "best_loss", "accuracy"} <= metrics_of(folder)[-1].keys()
        config, probe, _ = load_pretrained(folder)
        assert isinstance(probe, AttentiveProbe)
        assert config.objective == "attentive" and len(probe.heads) == heads
        assert probe.logits(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3)
        assert main(["report", str(folder)]) == 0


@pytest.mark.parametrize("stopped", RUNS)
def test_a_signal_stops_it_and_the_same_command_resumes(
    trained, tmp_path, shards, monkeypatch, capsys, stopped
):
    run, step = tiny_run(tmp_path / "run"), loop.train_step

    def stop_at_five(learner, batches, now, meter):
        if now.number == 5 and learner.config.output.endswith(f"/{stopped}"):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(learner, batches, now, meter)

    monkeypatch.setattr(loop, "train_step", stop_at_five)
    assert main(words(run, shards)) == 75
    monkeypatch.undo()
    assert exit_status(run / stopped)["step"] == 5 and not (run / "attentive.json").exists()
    assert main([*words(run, shards), "--seed", "1"]) == 2
    assert "an unfinished probe with another seed (0, not 1)" in capsys.readouterr().err
    assert main(words(run, shards)) == 0
    for name in RUNS:
        assert same_weights(final_weights(run / name), final_weights(trained / name))
    ours, theirs = (json.loads((one / "attentive.json").read_text()) for one in (run, trained))
    assert ours["results"] == theirs["results"]


def test_two_processes_train_the_same_probe(trained, tmp_path, shards):
    run = tiny_run(tmp_path / "run")
    ended = completed(forked("mae", *words(run, shards)))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test images; details in ") == 1
    for name in RUNS:
        ours, theirs = (metrics_of(one / name) for one in (run, trained))
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["accuracy"] == pytest.approx(other["accuracy"])
        ours, theirs = (final_weights(one / name) for one in (run, trained))
        for key, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[key], rtol=1e-3, atol=1e-4)
    ours, theirs = (json.loads((one / "attentive.json").read_text()) for one in (run, trained))
    assert ours["results"][0]["sweep"] == theirs["results"][0]["sweep"]


@pytest.mark.fault
def test_two_processes_test_the_same_heads_also_after_a_kill(trained, tmp_path, shards):
    """With tokens that are encoded anew: the images that decode are found by both, too."""
    alone, both = (shutil.copytree(trained, tmp_path / name) for name in ("alone", "both"))
    for run in (alone, both):
        shutil.rmtree(run / "features")
    fresh = ["--token-gb", "1e-6"]
    asked = ["mae", *words(both, shards), *fresh]
    chain = ["tests.small_batches", "tests.killed", "1", *asked]
    ended = completed(
        forked("--import", "tests.small_batches", *chain, "--then", "tests.small_batches", *asked)
    )
    assert ended.returncode == 0 and ": resuming, " in ended.stderr, ended.stderr
    assert main([*words(alone, shards), *fresh]) == 0
    ours, theirs = (json.loads((one / "attentive.json").read_text()) for one in (both, alone))
    assert ours["results"] == theirs["results"] and not list(both.rglob(".*.parts"))


def test_the_command_from_cache_and_from_images(tmp_path, make_shards, capsys, monkeypatch):
    run, shards = tiny_run(tmp_path / "run"), make_shards(tmp_path / "shards", 24, size=20)
    words = ["attentive", str(run), "--train", shards, "--test", shards, "--epochs", "1"]
    made = str(run / "features" / "any-name.safetensors")
    assert main(["features", str(run), shards, "--tokens", "--out", made, "--device", "cpu"]) == 0
    capsys.readouterr()
    # Cached tokens are read whatever the limit for new ones.
    assert main([*words, "--device", "cpu", "--token-gb", "1e-6"]) == 0
    printed_errors = capsys.readouterr().err
    assert (
        printed_errors.count("any-name.safetensors, made before") == 2
        and "encoding" not in printed_errors
    )
    assert "warning: 24 of the test images are in --train too" in printed_errors
    report = json.loads((run / "attentive.json").read_text())
    assert report["recipe"]["tokens"] == "cached" and report["train_images"] == 24
    assert report["recipe"]["steps"] == 1 and report["recipe"]["least_steps"] is None
    assert report["test_images_in_train"] == 24 and report["step"] == 3
    (run / "features" / "any-name.safetensors").unlink()
    out = str(tmp_path / "fresh.json")
    encoded, forward = [], ObjectiveEncoder.forward

    def counting(self, images):
        encoded.extend(images.flatten(1).any(dim=1).nonzero().tolist())  # no black one
        return forward(self, images)

    monkeypatch.setattr(ObjectiveEncoder, "forward", counting)
    fresh_heads = ["--seed", "1", "--token-gb", "1e-6", "--out", out]
    assert main([*words, "--device", "cpu", *fresh_heads]) == 0
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "tokens: 0.001 GB, more than --token-gb 1e-06: not cached" in said
    assert f"{len(encoded)} in 1 epoch instead of 48 images to encode once" in said
    fresh = json.loads((tmp_path / "fresh.json").read_text())
    assert fresh["recipe"]["tokens"] == "encoded each epoch"
    assert main([*words, "--device", "cpu", "--baselines"]) == 0
    both = json.loads((run / "attentive.json").read_text())
    assert [row["encoder"] for row in both["results"]] == ["pretrained", "untrained"]
    assert len(list((run / "features").glob("*-tokens.safetensors"))) == 2
    printed = capsys.readouterr()
    assert "above untrained" in printed.out
    line = f"tokens: 0.001 GB, cached in {run / 'features'}: 96 images to encode once"
    assert line in printed.err
    (tmp_path / "shards" / "classes.txt").write_text("a\nb\nc\n")
    other = make_shards(tmp_path / "other", 6, size=20)
    (tmp_path / "other" / "classes.txt").write_text("c\nb\nother\n")
    assert main([*words[:5], other, "--train", shards]) == 2
    assert "--test: 1 class is not in --train: other (" in capsys.readouterr().err
    bare = make_shards(tmp_path / "bare", 3, labels=False)
    assert main([*words[:3], bare, "--test", shards]) == 2
    assert "--train: 3 of 3 samples have no label (.cls), first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--untrained"])
