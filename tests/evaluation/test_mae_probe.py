import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mae.cli import main
from mae.data.loader import CentredViews
from mae.errors import UserError
from mae.evaluation import mae_probe
from mae.evaluation.encoders import objective_encoder
from mae.evaluation.mae_probe import (
    Kept,
    ProbeRecipe,
    batch_for,
    learning_rate,
    make_plan,
    random_views,
    train_head,
)
from mae.evaluation.mae_probe_head import ProbeHead, image_vectors, ranks_of_truth
from mae.evaluation.mae_probe_report import mae_linear_probe, mae_probe_table
from mae.evaluation.trained_record import number_classes
from tests.evaluation.frozen import CONFIG, images_of, tiny_encoder, tiny_objective, tiny_run

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


def test_training_is_the_written_out_recipe(shards, targets):
    """Against a plain loop: BatchNorm, softmax and LARS by hand, gradients summed over parts."""
    images, encoder = images_of(shards), tiny_encoder()
    head = train_head(CONFIG, encoder, images, targets, RECIPE, say=silent)
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


def test_the_encoder_is_frozen_and_never_trained(shards, targets):
    objective = tiny_objective()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    train_head(
        CONFIG, objective_encoder(CONFIG, objective), images_of(shards), targets, RECIPE, say=silent
    )
    assert not any(part.training for part in objective.modules())
    assert all(torch.equal(before[name], v) for name, v in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_the_same_call_continues_in_the_same_bits(tmp_path, shards, targets, monkeypatch):
    images, encoder = images_of(shards), tiny_encoder()
    whole = train_head(CONFIG, encoder, images, targets, RECIPE, say=silent)
    kept = Kept(tmp_path / "kept", {"seed": 0})
    saved, save = [], mae_probe.save_state

    def save_once(*given):
        save(*given)
        saved.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(mae_probe, "save_state", save_once)
    with pytest.raises(KeyboardInterrupt):
        train_head(CONFIG, encoder, images, targets, RECIPE, kept=kept, say=silent)
    monkeypatch.undo()
    told = []
    again = train_head(CONFIG, encoder, images, targets, RECIPE, kept=kept, say=told.append)
    assert len(saved) == 1 and told[0] == "continued after epoch 1.0" and len(told) == 3
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

    other = Kept(kept.folder, {"seed": 1})
    with pytest.raises(UserError, match=r"unfinished probe with another seed \(0, not 1\)"):
        train_head(CONFIG, encoder, images, targets, RECIPE, kept=other, say=silent)
    (kept.folder / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"not readable: .*delete it to begin anew"):
        train_head(CONFIG, encoder, images, targets, RECIPE, kept=kept, say=silent)


def test_ranks_count_better_scores(shards, targets):
    images, encoder = images_of(shards), tiny_encoder()
    head = ProbeHead(32, 3, seed=0).eval()
    ranks = ranks_of_truth(head, encoder, images, targets, batch_size=7)
    views = CentredViews(images, (16, 16), CONFIG.data.crop_pct)
    pixels = torch.stack([views.view(i) for i in range(24)])
    scores = head(image_vectors(encoder, pixels)).detach().numpy()
    assert ranks.tolist() == [
        sorted(row, reverse=True).index(row[c]) for row, c in zip(scores, targets, strict=True)
    ]
    head.linear.weight.data.fill_(math.nan)
    assert (ranks_of_truth(head, encoder, images, targets) > 0).all()


def test_the_report_tells_what_differs_from_the_published_probe(tmp_path, shards):
    told = []
    report = mae_linear_probe(
        CONFIG,
        tiny_encoder(),
        images_of(shards),
        images_of(shards, "--test"),
        ProbeRecipe(epochs=2),
        folder=tmp_path / "state",
        say=told.append,
    )
    assert report["settings"]["batch_size"] == 2 and report["classes"] == 3
    low, high = report["interval"]
    assert 0 <= low <= report["accuracy"] <= high <= 1
    assert report["top5_accuracy"] is None  # of three classes
    assert len(report["notes"]) == 2 and told[0].startswith("note: batches of 2 images instead of")
    assert not (tmp_path / "state").exists()
    assert "top-1" in mae_probe_table(report)
    json.dumps(report)


def test_the_command_and_its_refusals(tmp_path, shards, make_shards, capsys):
    run = tiny_run(tmp_path / "run")
    words = ["probe", str(run), "--train", shards, "--test", shards, "--protocol", "mae"]
    assert main([*words, "--epochs", "1", "--warmup-epochs", "1", "--device", "cpu"]) == 0
    report = json.loads((run / "probe-mae.json").read_text())
    assert report["command"] == "probe" and report["step"] == 3
    assert report["selection"].startswith("none") and report["feature"] == "cls"
    assert len(report["encoder"]["encoder"]) == 64 and report["versions"]["torch"]
    bare = make_shards(tmp_path / "bare", 3, labels=False)
    for more, line in (
        (["--baselines"], "--baselines: only for --protocol fast"),
        (["--classes", "4"], "--train: 3 classes, not 4 (--classes)"),
        (["--step-batch", "25"], "--step-batch: 25 is not in 2..24, the images of --train"),
        (["--test", bare], "--test: 3 of 3 samples have no label (.cls), first"),
    ):
        assert main([*words, *more]) == 2
        assert line in capsys.readouterr().err
    assert main(["probe", *words[2:]]) == 2
    assert "needs RUN" in capsys.readouterr().err


def test_classes_are_numbered_without_gaps_or_refused(tmp_path, make_tar, make_shards):
    def labelled(name, labels):
        pixels = (tmp_path / "image.png").read_bytes()
        members = [
            member
            for i, label in enumerate(labels)
            for member in ((f"{i}.png", pixels), (f"{i}.cls", str(label).encode()))
        ]
        make_tar(tmp_path / f"{name}.tar", members)
        return images_of(str(tmp_path / f"{name}.tar")).manifest

    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    train = labelled("train", [7, 100, 7, 3])
    numbers = number_classes(train, labelled("test", [100, 3]))
    assert numbers.count == 3
    assert numbers.train.tolist() == [1, 2, 1, 0] and numbers.test.tolist() == [2, 0]
    with pytest.raises(UserError, match="--test: class 8 does not occur in --train"):
        number_classes(train, labelled("other", [8]))
    with pytest.raises(UserError, match="all samples are of class 3; there is nothing to tell"):
        number_classes(labelled("one", [3, 3]), labelled("another", [3]))
