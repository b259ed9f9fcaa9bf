import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mae.cli import main
from mae.data.loader import CentredViews
from mae.errors import UserError
from mae.evaluation import mae_probe
from mae.evaluation.encoders import objective_encoder
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.mae_probe import (
    Kept,
    ProbeRecipe,
    batch_for,
    learning_rate,
    make_plan,
    random_views,
    train_head,
)
from mae.evaluation.mae_probe_head import (
    ProbeHead,
    centred_vectors,
    head_ranks,
    image_vectors,
)
from mae.evaluation.mae_probe_report import mae_linear_probe, remarks
from mae.evaluation.tables import table
from tests.evaluation.frozen import CONFIG, images_of, tiny_encoder, tiny_objective, tiny_run
from tests.evaluation.test_features import spoil

RECIPE = ProbeRecipe(epochs=3, batch_size=8, device_batch=4, warmup_epochs=1, blr=4.0)


def silent(text):
    pass


def pixels_of(batch):
    assert isinstance(batch.images, torch.Tensor)
    return batch.images


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    return make_shards(tmp_path_factory.mktemp("probe") / "shards", 24, size=20)


@pytest.fixture(scope="module")
def targets():
    return np.arange(24) % 3


@pytest.fixture(scope="module")
def numbers(targets):
    return ClassNumbers(3, targets, targets)


def test_the_head_is_the_papers():
    head = ProbeHead(200, 50, seed=3)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.linear.bias.count_nonzero() == 0
    assert not list(head.norm.parameters()) and head.norm.eps == 1e-6
    assert torch.equal(head.linear.weight, ProbeHead(200, 50, seed=3).linear.weight)
    assert not torch.equal(head.linear.weight, ProbeHead(200, 50, seed=4).linear.weight)


def test_batchnorm_uses_the_batch_in_training_and_the_running_statistics_after():
    head, vectors = ProbeHead(6, 4, seed=0), 5 + 3 * torch.randn(32, 6)
    centred = (vectors - vectors.mean(0)) / (vectors.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(head.train()(vectors), head.linear(centred))
    assert head.norm.running_mean is not None and head.norm.running_var is not None
    torch.testing.assert_close(head.norm.running_mean, 0.1 * vectors.mean(0))
    torch.testing.assert_close(head.norm.running_var, 0.9 + 0.1 * vectors.var(0))
    mean, var = head.norm.running_mean.clone(), head.norm.running_var.clone()
    expected = head.linear((vectors - mean) / (var + 1e-6).sqrt())
    torch.testing.assert_close(head.eval()(vectors), expected)
    assert torch.equal(head.norm.running_mean, mean)


def test_imagenet_gets_the_published_numbers():
    plan = make_plan(ProbeRecipe(), 1_281_167)
    assert plan.slices.batch_size == 16384 and plan.slices.device_batch == 512
    assert plan.lr == pytest.approx(6.4)
    assert plan.steps == round(90 * 1_281_167 / 16384) == 7038
    rates = [learning_rate(ProbeRecipe(), plan, step) for step in range(plan.steps)]
    epochs = [step * 16384 / 1_281_167 for step in range(plan.steps)]
    for rate, epoch in zip(rates, epochs, strict=True):
        wanted = (
            6.4 * epoch / 10 if epoch < 10 else 3.2 * (1 + math.cos(math.pi * (epoch - 10) / 80))
        )
        assert rate == pytest.approx(wanted)
    assert rates[0] == 0 and max(rates) == pytest.approx(6.4, rel=1e-3) and rates[-1] < 1e-5


def test_small_data_get_small_batches_and_impossible_ones_are_refused():
    assert [batch_for(n, None) for n in (16384 * 10, 50_000, 3068, 200, 5)] == [
        16384,
        4096,
        256,
        16,
        2,
    ]
    assert make_plan(ProbeRecipe(batch_size=1000, device_batch=300), 5000).slices.accumulation == 4
    for size in (1, 101):
        with pytest.raises(UserError, match=rf"--step-batch: {size} is not in 2..100"):
            batch_for(100, size)
    for epochs, given in ((10, 10.0), (10, 12.0)):
        recipe = ProbeRecipe(epochs=epochs, warmup_epochs=given)
        with pytest.raises(UserError, match=f"--warmup-epochs: {given:g}, but --epochs is only 10"):
            make_plan(recipe, 5000)
    assert make_plan(ProbeRecipe(epochs=9), 5000).warmup_epochs == 1
    assert make_plan(ProbeRecipe(epochs=900), 5000).warmup_epochs == 10
    with pytest.raises(UserError, match="523 does not divide into parts of 2 to 512 images"):
        make_plan(ProbeRecipe(batch_size=523), 1000)


def test_each_epoch_sees_every_image_once_in_another_crop(shards):
    images, plan = images_of(shards), make_plan(RECIPE, 24)
    stream = list(random_views(CONFIG, images, (16, 16), RECIPE, plan, 0, 0))
    samples = torch.cat([batch.samples for batch in stream]).reshape(3, 24)
    assert samples.sort(dim=1).values.tolist() == [list(range(24))] * 3
    pixels = torch.cat([pixels_of(batch) for batch in stream])
    first, second = (pixels[epoch * 24 + samples[epoch].argsort()] for epoch in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    later = list(random_views(CONFIG, images, (16, 16), RECIPE, plan, 5, 0))
    assert all(
        torch.equal(pixels_of(a), pixels_of(b)) for a, b in zip(later, stream[5 * 2 :], strict=True)
    )


def test_training_is_the_written_out_recipe(shards, targets, numbers):
    """Against a plain loop: BatchNorm, softmax and LARS by hand, gradients summed over parts."""
    images, encoder = images_of(shards), tiny_encoder()
    head, left_out = train_head(CONFIG, encoder, images, numbers, RECIPE, say=silent)
    assert left_out == []
    plan = make_plan(RECIPE, 24)
    weights = ProbeHead(32, 3, seed=0).linear.weight.detach().double()
    bias = torch.zeros(3, dtype=torch.float64)
    moved, moved_bias = torch.zeros_like(weights), torch.zeros_like(bias)
    mean, var = torch.zeros(32, dtype=torch.float64), torch.ones(32, dtype=torch.float64)
    parts = list(random_views(CONFIG, images, (16, 16), RECIPE, plan, 0, 0))
    for step in range(plan.steps):
        gradient, gradient_bias = torch.zeros_like(weights), torch.zeros_like(bias)
        for batch in parts[2 * step : 2 * step + 2]:
            vectors = image_vectors(encoder, pixels_of(batch)).double()
            mean, var = 0.9 * mean + 0.1 * vectors.mean(0), 0.9 * var + 0.1 * vectors.var(0)
            normal = (vectors - vectors.mean(0)) / (vectors.var(0, unbiased=False) + 1e-6).sqrt()
            chance = (normal @ weights.T + bias).softmax(1)
            error = chance - F.one_hot(torch.from_numpy(targets[batch.samples]), 3)
            gradient += error.T @ normal / len(error) / 2
            gradient_bias += error.mean(0) / 2
        lr = learning_rate(RECIPE, plan, step)
        moved = 0.9 * moved + 0.001 * weights.norm() / gradient.norm() * gradient
        moved_bias = 0.9 * moved_bias + gradient_bias
        weights, bias = weights - lr * moved, bias - lr * moved_bias
    close = {"check_dtype": False, "rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(head.linear.weight, weights, **close)
    torch.testing.assert_close(head.linear.bias, bias, **close)
    torch.testing.assert_close(head.norm.running_mean, mean, **close)
    torch.testing.assert_close(head.norm.running_var, var, **close)
    assert not head.training


def test_the_encoder_is_frozen_and_never_trained(shards, numbers):
    objective = tiny_objective()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    train_head(
        CONFIG, objective_encoder(CONFIG, objective), images_of(shards), numbers, RECIPE, say=silent
    )
    assert not any(part.training for part in objective.modules())
    assert all(torch.equal(before[name], v) for name, v in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_the_same_call_continues_in_the_same_bits(tmp_path, shards, numbers, monkeypatch):
    images, encoder = images_of(shards), tiny_encoder()
    whole = train_head(CONFIG, encoder, images, numbers, RECIPE, say=silent).head
    kept = Kept(tmp_path / "kept", {"seed": 0})
    saved, save = [], mae_probe.save_state

    def save_once(*given):
        save(*given)
        saved.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(mae_probe, "save_state", save_once)
    with pytest.raises(KeyboardInterrupt):
        train_head(CONFIG, encoder, images, numbers, RECIPE, kept=kept, say=silent)
    monkeypatch.undo()
    told = []
    again = train_head(CONFIG, encoder, images, numbers, RECIPE, kept=kept, say=told.append).head
    assert len(saved) == 1 and told[0] == "continued after epoch 1.0" and len(told) == 3
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    told.clear()
    done = train_head(CONFIG, encoder, images, numbers, RECIPE, kept=kept, say=told.append).head
    assert told == ["continued after epoch 3.0"]
    assert torch.equal(done.linear.weight, again.linear.weight)

    other = Kept(kept.folder, {"seed": 1})
    with pytest.raises(UserError, match=r"unfinished probe with another seed \(0, not 1\)"):
        train_head(CONFIG, encoder, images, numbers, RECIPE, kept=other, say=silent)
    (kept.folder / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"not readable: .*delete it to begin anew"):
        train_head(CONFIG, encoder, images, numbers, RECIPE, kept=kept, say=silent)


def test_ranks_count_better_scores(shards, targets):
    images, encoder = images_of(shards), tiny_encoder()
    head = ProbeHead(32, 3, seed=0).eval()
    tested = centred_vectors(encoder, images, batch_size=7)
    assert tested.samples.tolist() == list(range(24)) and tested.left_out == []
    ranks = head_ranks(head, tested.vectors, targets)
    views = CentredViews(images, (16, 16), CONFIG.data.crop_pct)
    pixels = torch.stack([views.view(i) for i in range(24)])
    scores = head(image_vectors(encoder, pixels)).detach().numpy()
    assert ranks.tolist() == [
        sorted(row, reverse=True).index(row[c]) for row, c in zip(scores, targets, strict=True)
    ]
    head.linear.weight.data.fill_(math.nan)
    assert (head_ranks(head, tested.vectors, targets) > 0).all()


def test_the_report_tells_what_differs_from_the_published_probe(tmp_path, shards):
    told = []
    report = mae_linear_probe(
        CONFIG,
        {"pretrained": tiny_encoder()},
        images_of(shards),
        images_of(shards, "--test"),
        ProbeRecipe(epochs=2),
        folders={"pretrained": tmp_path / "state"},
        say=told.append,
    )
    assert report["recipe"]["batch_size"] == 2 and report["classes"] == 3
    assert report["recipe"]["warmup_epochs"] == pytest.approx(2 / 9)
    (row,) = report["results"]
    low, high = row["interval"]
    assert 0 <= low <= row["accuracy"] <= high <= 1
    assert "top5_accuracy" not in row  # of three classes
    assert len(report["notes"]) == 3
    assert told[0].startswith("note: a warm-up of 0.222 epochs instead of 10")
    assert (tmp_path / "state" / "state.safetensors").exists()  # for the caller to clear
    lines = table("probe", report).splitlines()
    assert "top-1" in lines[0] and [line[:6] for line in lines[2:]] == ["note: "] * 3
    json.dumps(report)


def test_crops_that_are_not_mirrored_are_remarked_on(shards):
    plan = make_plan(RECIPE, 24)
    mirrored, plain = (list(remarks(RECIPE, plan, flip)) for flip in (True, False))
    assert plain[1:] == mirrored
    assert plain[0].startswith("crops are not mirrored, as data.flip is false")
    data = CONFIG.data.model_copy(update={"flip": False})
    config = CONFIG.model_copy(update={"data": data})
    given = images_of(shards), images_of(shards, "--test"), RECIPE._replace(epochs=2)
    report = mae_linear_probe(config, {"pretrained": tiny_encoder()}, *given, say=silent)
    assert report["notes"][0] == plain[0] and report["recipe"]["flip"] is False


def test_bad_images_are_left_out_or_replaced_named_and_counted(tmp_path, make_shards):
    train, test = (make_shards(tmp_path / name, 24, size=20) for name in ("train", "test"))
    spoil(tmp_path / "train", "sample-00007")
    spoil(tmp_path / "test", "sample-00003", "sample-00004")
    given = {"pretrained": tiny_encoder()}, images_of(train), images_of(test, "--test"), RECIPE
    report = mae_linear_probe(CONFIG, *given, say=silent)
    assert report["train_images"] == 23 and report["test_images"] == 22
    assert [line.rpartition("key ")[2][:12] for line in report["test"]["left_out"]] == [
        "sample-00003",
        "sample-00004",
    ]
    assert "key sample-00007" in report["train"]["left_out"][0]
    strict = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"max_bad": 1})})
    told = []
    with pytest.raises(UserError, match=r"sample-00003: .*more than data.max_bad = 1"):
        mae_linear_probe(strict, *given, say=told.append)
    assert not any("epoch" in line and "loss" in line for line in told)  # before the first one


def test_bad_images_met_before_a_stop_are_remembered(tmp_path, make_shards, numbers):
    pattern = make_shards(tmp_path / "train", 24, size=20)
    spoil(tmp_path / "train", "sample-00007")
    given = CONFIG, tiny_encoder(), images_of(pattern), numbers, RECIPE
    kept = Kept(tmp_path / "kept", {})
    first = train_head(*given, kept=kept, say=silent).left_out
    assert "key sample-00007" in first[0]
    assert (
        train_head(*given, kept=kept, say=silent).left_out == first
    )  # no epoch is left to meet it


def test_the_command_and_its_refusals(tmp_path, shards, make_shards, capsys):
    run = tiny_run(tmp_path / "run")
    words = ["probe", str(run), "--train", shards, "--test", shards, "--protocol", "mae"]
    assert main([*words, "--epochs", "1", "--baselines", "--device", "cpu"]) == 0
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
    assert not list(run.glob("probe-mae*/*"))  # nothing to continue
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
    ):
        assert main([*words, *more]) == 2
        assert line in capsys.readouterr().err
    for option in ("--epochs", "--step-batch", "--blr", "--warmup-epochs", "--device-batch"):
        assert main([*words[:6], option, "2"]) == 2
        assert f"{option}: only for --protocol mae" in capsys.readouterr().err
    assert main(["probe", *words[2:]]) == 2
    assert "needs RUN" in capsys.readouterr().err
