import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mae.cli import main
from mae.errors import UserError
from mae.evaluation.attentive import (
    LEAST_STEPS,
    RATES,
    AttentiveRecipe,
    Choice,
    attentive_probe,
    epochs_for,
    ranks,
    rate_at_edge,
    train_heads,
)
from mae.evaluation.attentive_head import AttentiveHead
from mae.evaluation.attentive_report import TokenSubject, attentive_report
from mae.evaluation.attentive_tokens import CachedTokens, EncodedTokens, joined, token_bytes
from mae.evaluation.feature_cache import features_of, identity
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.tables import table
from tests.evaluation.frozen import images_of, tiny_encoder, tiny_run
from tests.evaluation.test_features import spoil


class InMemory:
    """Tokens that are simply there."""

    def __init__(self, tokens):
        self.tokens, self.samples, self.read = torch.from_numpy(tokens), np.arange(len(tokens)), []
        self.left_out = []

    def batches(self, slices):
        for rows in slices:
            self.read += rows.tolist()
            yield self.tokens[torch.from_numpy(rows)]


def hidden_signs(n, seed):
    """One of 9 tokens of each image is marked and tells the class; the others say it of others.

    The mean over tokens knows nothing of the class, so that a linear probe on it is at chance.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    tokens = 0.3 * rng.standard_normal((n, 9, 16)).astype(np.float32)
    signs = np.tile([1, -1, 1, -1, 1, -1, 1, -1, 0], (n, 1))
    signs = rng.permuted(signs, axis=1)
    place = [
        rng.choice(np.flatnonzero(of == 2 * c - 1)) for of, c in zip(signs, labels, strict=True)
    ]
    tokens[..., 0] += 2 * signs
    tokens[np.arange(n), place, 1] += 4
    return InMemory(tokens), labels


def silent(text):
    pass


def head_of(width, classes, seed=0):
    head = AttentiveHead(width, classes, torch.Generator().manual_seed(seed)).double()
    for parameter in head.parameters():  # nothing may hide behind zeros
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return head


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (128, 2), (192, 3), (130, 2)])
def test_pooling_is_multi_head_attention_written_out(width, heads):
    head = head_of(width, 5)
    assert head.num_heads == heads
    tokens = np.random.default_rng(0).standard_normal((3, 7, width))
    query, key, value = (
        tensor.detach().numpy() for tensor in (head.query, head.key.weight, head.value.weight)
    )
    size, pooled = width // heads, np.zeros((3, width))
    for image in range(3):
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            scores = [query[own] @ (key @ token)[own] / size**0.5 for token in tokens[image]]
            chance = np.exp(scores - np.max(scores)) / np.exp(scores - np.max(scores)).sum()
            values = [(value @ token + head.value.bias.detach().numpy()) for token in tokens[image]]
            pooled[image, own] = sum(a * v[own] for a, v in zip(chance, values, strict=True))
    given = torch.from_numpy(tokens)
    np.testing.assert_allclose(head.pool(given).detach().numpy(), pooled, rtol=1e-9, atol=1e-12)
    normal = (pooled - pooled.mean(1, keepdims=True)) / np.sqrt(pooled.var(1) + 1e-6)[:, None]
    normal = normal * head.norm.weight.detach().numpy() + head.norm.bias.detach().numpy()
    scores = normal @ head.classify.weight.detach().numpy().T + head.classify.bias.detach().numpy()
    np.testing.assert_allclose(head(given).detach().numpy(), scores, rtol=1e-9, atol=1e-12)


def test_pooling_does_not_depend_on_the_order_of_the_tokens():
    head, tokens = head_of(32, 3), torch.randn(2, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(head(tokens), head(tokens[:, torch.randperm(9)]))


def test_it_finds_what_a_mean_hides():
    train, labels = hidden_signs(400, 0)
    test, test_labels = hidden_signs(200, 1)
    means = train.tokens.mean(1).numpy(), test.tokens.mean(1).numpy()
    linear = LogisticRegression().fit(means[0], labels).score(means[1], test_labels)
    choices = [Choice(1e-4, 0.1), Choice(1e-2, 0.01)]
    recipe = AttentiveRecipe(10, 32)
    numbers = ClassNumbers(2, labels, test_labels)
    found = attentive_probe(train, test, numbers, recipe, choices=choices, say=silent)
    assert linear < 0.65 and (found.ranks == 0).mean() > 0.9
    assert found.chosen == choices[int(np.argmax(found.accuracies))]


def test_the_test_set_is_read_once_and_has_no_say():
    train, labels = hidden_signs(60, 0)
    recipe, chosen = AttentiveRecipe(2, 16), set()
    for seed in (1, 2):
        test, test_labels = hidden_signs(30, seed)
        numbers = ClassNumbers(2, labels, test_labels)
        chosen.add(attentive_probe(train, test, numbers, recipe, say=silent).chosen)
        assert sorted(test.read) == list(range(30))
    assert len(chosen) == 1


def test_heads_of_a_sweep_are_those_trained_alone():
    train, labels = hidden_signs(60, 0)
    choices = [Choice(1e-3, 0.1), Choice(3e-3, 0.0)]
    given = train, labels, np.arange(50), 2
    recipe = AttentiveRecipe(2, 16)
    both = train_heads(*given, choices, recipe, "cpu", silent)
    (alone,) = train_heads(*given, choices[1:], recipe, "cpu", silent)
    assert torch.equal(both[1].classify.weight, alone.classify.weight)
    assert not torch.equal(both[0].classify.weight, both[1].classify.weight)
    found = ranks(both, train, labels, np.arange(50, 60), 4)
    assert found.shape == (2, 10) and set(found.flatten().tolist()) <= {0, 1}


def test_cached_and_fresh_tokens_agree_in_any_order(tmp_path, make_shards):
    images, encoder = images_of(make_shards(tmp_path / "shards", 10)), tiny_encoder()
    cached = CachedTokens(features_of(encoder, images, tmp_path, tokens=True, say=silent), "cpu")
    fresh = EncodedTokens(encoder, images, "cpu", workers=0)
    slices = [np.array([7, 0, 9]), np.array([3])]
    for kept, new in zip(cached.batches(slices), fresh.batches(slices), strict=True):
        assert kept.dtype == torch.float32 and kept.shape[1:] == (17, 32)  # 4 x 4, class token
        torch.testing.assert_close(kept, new, rtol=2e-3, atol=2e-3)  # batches of other sizes
    vectors = {"cls": torch.zeros(1, 2), "mean": torch.ones(1, 2), "tokens": torch.ones(1, 3, 2)}
    assert joined(vectors)[0, :, 0].tolist() == [0, 1, 1, 1]
    per_image = 2 * 32 * (16 + 1 + 1)  # patches, class token, mean; two bytes each
    assert token_bytes(encoder, images, "cpu") == 10 * per_image


def test_too_few_images_are_refused():
    train, labels = hidden_signs(19, 0)
    with pytest.raises(UserError, match="--train: 19 images; an attentive probe needs 20"):
        numbers = ClassNumbers(2, labels, labels)
        attentive_probe(train, train, numbers, AttentiveRecipe(), say=silent)


def test_bad_images_have_no_row_whether_kept_or_encoded_anew(tmp_path, make_shards):
    pattern = make_shards(tmp_path / "shards", 26)
    spoil(tmp_path / "shards", "sample-00003", "sample-00008")
    images, encoder = images_of(pattern), tiny_encoder()
    kept = CachedTokens(
        features_of(encoder, images, tmp_path, tokens=True, max_bad=2, say=silent), "cpu"
    )
    fresh = EncodedTokens(encoder, images, "cpu", workers=0, max_bad=2)
    reports = []
    for tokens in (kept, fresh):
        assert tokens.samples.tolist() == [i for i in range(26) if i not in (3, 8)]
        assert len(tokens.left_out) == 2 and "key sample-00008" in tokens.left_out[1]
        subjects = [TokenSubject("pretrained", tokens, tokens)]
        known = identity(encoder, images), images, images
        recipe, choices = AttentiveRecipe(2, 16), [Choice(1e-2, 0.1)]
        reports.append(attentive_report(subjects, *known, recipe, choices=choices, say=silent))
    for report in reports:
        assert report["train_images"] == 24 and len(report["test"]["left_out"]) == 2
        json.dumps(report)
    ours, theirs = (report["results"][0]["accuracy"] for report in reports)
    assert ours == pytest.approx(theirs, abs=1 / 24 + 1e-9)  # batches of other sizes
    with pytest.raises(UserError, match=r"2 bad images so far, more than data.max_bad = 1"):
        EncodedTokens(encoder, images, "cpu", workers=0, max_bad=1)


def test_the_report_compares_with_the_untrained_and_knows_the_top_five(tmp_path, make_shards):
    """Tokens that hold the class beside tokens that hold nothing."""
    images = images_of(make_shards(tmp_path / "shards", 60))
    labels = images.manifest.label.astype(np.int64)
    rng = np.random.default_rng(0)
    blind = rng.standard_normal((60, 4, 16)).astype(np.float32)
    seeing = blind.copy()
    seeing[:, :, 0] += 4 * (labels[:, None] - 1)
    subjects = [
        TokenSubject(name, InMemory(tokens), InMemory(tokens))
        for name, tokens in (("pretrained", seeing), ("untrained", np.zeros_like(blind)))
    ]
    told, choices = [], [Choice(1e-3, 0.1), Choice(1e-2, 0.1)]
    known = identity(tiny_encoder(), images), images, images, AttentiveRecipe(8, 16)
    report = attentive_report(subjects, *known, choices=choices, say=told.append)
    ours, untrained = report["results"]
    above = ours["above"]["untrained"]
    assert ours["accuracy"] > 0.8 and untrained["accuracy"] == pytest.approx(1 / 3)
    assert above["difference"] == pytest.approx(ours["accuracy"] - untrained["accuracy"])
    assert 0.2 < above["interval"][0] < above["difference"] < above["interval"][1]
    assert "above" not in untrained and "top5_accuracy" not in ours
    assert [row["lr"] for row in ours["sweep"]] == [1e-3, 1e-2] and ours["lr"] in (1e-3, 1e-2)
    assert {line.partition(":")[0] for line in told} == {"pretrained", "untrained"}
    shown = table("attentive", report).splitlines()
    assert "above untrained" in shown[0] and len(shown) == 4
    assert shown[3] == "note: 32 steps: more --epochs, for 2,500, may do better"
    assert report["recipe"]["steps"] == 32 and "ImageNet" in report["measures"]
    assert not ours["lr_at_edge"], "of two learning rates"


def test_small_data_sets_get_more_epochs():
    for images, size, epochs in ((1_281_167, 256, 20), (32_000, 256, 20), (5_000, 256, 125)):
        assert epochs_for(images, size) == epochs
    for images, size in ((5_000, 256), (7, 256), (300, 100), (31_999, 256)):
        recipe = AttentiveRecipe(epochs_for(images, size), size)
        assert recipe.steps(images) >= LEAST_STEPS
        assert recipe._replace(epochs=recipe.epochs - 1).steps(images) < LEAST_STEPS


def test_steps_are_those_that_are_taken(monkeypatch):
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda own: (taken.append(1), step(own)))
    train, labels = hidden_signs(50, 0)
    recipe, told = AttentiveRecipe(41, 16), []
    given = train, labels, np.arange(50), 2, [Choice(1e-3, 0.1)]
    train_heads(*given, recipe, "cpu", told.append)
    assert len(taken) == recipe.steps(50) == 41 * 4
    assert len(told) == 14 and "epoch 41/41" in told[-1]


def test_a_learning_rate_at_the_edge_is_told(tmp_path, make_shards):
    choices = [Choice(lr, decay) for decay in (0.1, 0.01) for lr in (1e-3, 1e-2, 3e-2)]
    assert rate_at_edge(choices, [0.1, 0.2, 0.1, 0.1, 0.1, 0.3])
    assert rate_at_edge(choices, [0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert not rate_at_edge(choices, [0.1, 0.2, 0.3, 0.1, 0.3, 0.1])
    assert not rate_at_edge(choices[:2], [0.1, 0.2])
    assert max(RATES) == 3e-2
    images, told = images_of(make_shards(tmp_path / "shards", 60)), []
    tokens = InMemory(np.random.default_rng(0).standard_normal((60, 4, 16)).astype(np.float32))
    tokens.tokens[:, :, 0] += 4 * (torch.from_numpy(images.manifest.label)[:, None] - 1)
    known = identity(tiny_encoder(), images), images, images, AttentiveRecipe(8, 16)
    choices = [Choice(lr, 0.1) for lr in (1e-9, 1e-8, 1e-2)]
    subjects = [TokenSubject("fine-tuned", tokens, tokens)]
    report = attentive_report(subjects, *known, choices=choices, say=told.append)
    note = "fine-tuned: lr 0.01 at the edge of the candidates, one beyond may do better"
    assert report["results"][0]["lr_at_edge"] and report["notes"][1] == note
    assert f"note: {note}" in table("attentive", report).splitlines()


def test_the_command_from_cache_and_from_images(tmp_path, make_shards, capsys):
    run, shards = tiny_run(tmp_path / "run"), make_shards(tmp_path / "shards", 24, size=20)
    words = ["attentive", str(run), "--train", shards, "--test", shards, "--epochs", "1"]
    made = str(run / "features" / "any-name.safetensors")
    assert main(["features", str(run), shards, "--tokens", "--out", made, "--device", "cpu"]) == 0
    capsys.readouterr()
    # What is kept is read, however little may be added to it.
    assert main([*words, "--device", "cpu", "--token-gb", "1e-6"]) == 0
    told = capsys.readouterr().err
    assert told.count("any-name.safetensors, made before") == 2 and "encoding" not in told
    assert "warning: 24 of the test images are in --train too" in told
    report = json.loads((run / "attentive.json").read_text())
    assert report["recipe"]["tokens"] == "cached" and report["train_images"] == 24
    assert report["recipe"]["steps"] == 1 and report["recipe"]["least_steps"] is None
    assert report["test_images_in_train"] == 24 and report["step"] == 3
    (run / "features" / "any-name.safetensors").unlink()
    out = str(tmp_path / "fresh.json")
    assert main([*words, "--device", "cpu", "--token-gb", "1e-6", "--out", out]) == 0
    fresh = json.loads((tmp_path / "fresh.json").read_text())
    assert fresh["recipe"]["tokens"] == "encoded each epoch"
    assert main([*words, "--device", "cpu", "--baselines"]) == 0
    both = json.loads((run / "attentive.json").read_text())
    assert [row["encoder"] for row in both["results"]] == ["pretrained", "untrained"]
    assert len(list((run / "features").glob("*-tokens.safetensors"))) == 2
    assert "above untrained" in capsys.readouterr().out
    (tmp_path / "shards" / "classes.txt").write_text("a\nb\nc\n")
    other = make_shards(tmp_path / "other", 6, size=20)
    (tmp_path / "other" / "classes.txt").write_text("c\nb\na\n")
    assert main([*words[:5], other, "--train", shards]) == 2
    assert "--test: its classes.txt names other classes" in capsys.readouterr().err
    bare = make_shards(tmp_path / "bare", 3, labels=False)
    assert main([*words[:3], bare, "--test", shards]) == 2
    assert "--train: 3 of 3 samples have no label (.cls), first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--untrained"])
