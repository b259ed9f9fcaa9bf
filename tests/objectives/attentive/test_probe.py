import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mae.base.errors import UserError
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.views import CentredViews
from mae.evaluation.feature_cache import load_or_encode
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.results import table
from mae.evaluation.usable_samples import usable_samples
from mae.objectives.attentive.declaration import HeadSettings
from mae.objectives.attentive.model import AttentiveHead, AttentiveProbe
from mae.objectives.attentive.probe import (
    LEAST_STEPS,
    RATES,
    AttentiveRecipe,
    EncodedData,
    attentive_probe,
    epochs_for,
    rate_at_edge,
    run_settings,
)
from mae.objectives.attentive.ranks import divided_ranks
from mae.objectives.attentive.report import attentive_report
from mae.objectives.attentive.tokens import (
    CachedTokens,
    EncodedTokens,
    joined,
    token_data,
)
from mae.training.plan import make_plan
from tests.evaluation.frozen import images_of, tiny_encoder, tiny_run
from tests.evaluation.test_features import spoil
from tests.objectives.probing import probing
from tests.runs import final_weights, metrics_of

WIDTH = 32
"""width of the tiny encoder's tokens"""


CLASSIFIER = "classify.weight"


class InMemory:
    """Tokens in memory."""

    def __init__(self, tokens):
        self.tokens, self.samples, self.read = torch.from_numpy(tokens), np.arange(len(tokens)), []
        self.skipped, self.workers = [], 0
        self.inputs = lambda rows: self.tokens[torch.from_numpy(rows)]

    def load(self, batches):
        for rows in batches:
            self.read += rows.tolist()
            yield self.tokens[torch.from_numpy(rows)]


def labelled(labels):
    """Images with these labels, which are never decoded."""
    n = len(labels)
    nothing = np.zeros(n, np.int64)
    manifest = Manifest(
        shards=("gone.tar",),
        keys=(b"\0".join(b"%d" % i for i in range(n)),),
        first=np.zeros(1, np.int64),
        shard_bytes=np.zeros(1, np.int64),
        sha256=np.zeros((1, 32), np.uint8),
        offset=nothing,
        size=nothing.astype(np.uint32),
        crc=nothing.astype(np.uint32),
        label=np.asarray(labels, np.int32),
        kind=nothing.astype(np.uint8),
        fingerprint=f"of {n}",
        datasets=(1,),
    )
    return Images(manifest, 3)


def hidden_signs(n, seed):
    """Tokens of which one of 9 per image is marked and holds the class; the others cancel out.

    The mean over tokens is independent of the class, so a linear probe on it is at chance.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    tokens = np.zeros((n, 9, WIDTH), np.float32)
    tokens[..., :16] = 0.3 * rng.standard_normal((n, 9, 16))
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


@pytest.fixture
def run(tmp_path):
    return tiny_run(tmp_path / "run")


def probed(run, train, labels, test, test_labels, recipe, **more):
    request = probing(run, labelled(labels), labelled(test_labels))
    numbers = ClassNumbers(2, labels, test_labels)
    return attentive_probe(request, EncodedData("pretrained", train, test), numbers, recipe, **more)


def heads_trained(run, tokens, labels, candidates, recipe, name):
    """Heads trained on all tokens in a run of their own; its settings and data."""
    request = probing(run, labelled(labels), labelled(labels))
    data = token_data(tokens, np.arange(len(labels)), request.train, recipe.seed)
    given = request.opened.encoder, recipe, candidates, sorted(set(labels.tolist())), len(labels)
    config = run_settings(request, *given, str(run / name))
    probe = request.fit(config, data)
    assert isinstance(probe, AttentiveProbe)
    return probe, config, data


def test_it_learns_classes_that_the_mean_token_hides(run):
    train, labels = hidden_signs(400, 0)
    test, test_labels = hidden_signs(200, 1)
    means = train.tokens.mean(1).numpy(), test.tokens.mean(1).numpy()
    linear = LogisticRegression().fit(means[0], labels).score(means[1], test_labels)
    candidates = [HeadSettings(lr=1e-4, weight_decay=0.1), HeadSettings(lr=1e-2, weight_decay=0.01)]
    recipe = AttentiveRecipe(10, 32)
    found = probed(run, train, labels, test, test_labels, recipe, candidates=candidates)
    assert linear < 0.65 and (found.ranks == 0).mean() > 0.9
    assert found.selected == candidates[int(np.argmax(found.accuracies))]


def test_the_test_set_is_read_once_and_selects_nothing(tmp_path):
    train, labels = hidden_signs(60, 0)
    recipe, selected = AttentiveRecipe(2, 16), set()
    for seed in (1, 2):
        test, test_labels = hidden_signs(30, seed)
        run = tiny_run(tmp_path / str(seed))
        selected.add(probed(run, train, labels, test, test_labels, recipe).selected)
        assert sorted(test.read) == list(range(30))
    assert len(selected) == 1


def test_heads_of_a_sweep_equal_heads_trained_alone(run):
    train, labels = hidden_signs(60, 0)
    candidates = [HeadSettings(lr=1e-3, weight_decay=0.1), HeadSettings(lr=3e-3, weight_decay=0.0)]
    recipe = AttentiveRecipe(2, 16)
    both, *_ = heads_trained(run, train, labels, candidates, recipe, "both")
    for number, choice in enumerate(candidates):
        alone, *_ = heads_trained(run, train, labels, [choice], recipe, f"alone-{number}")
        for name, ours in alone.heads[0].state_dict().items():
            torch.testing.assert_close(both.heads[number].state_dict()[name], ours)
        ours, own = (
            part.get_parameter(CLASSIFIER) for part in (both.heads[number], alone.heads[0])
        )
        is_same = torch.equal(ours, own)
        assert is_same or number == 0, "0: its learning rate is a rounded share of the other's"
    first, second = (head.get_parameter(CLASSIFIER) for head in both.heads)
    assert not torch.equal(first, second)
    request, rows = probing(run, labelled(labels), labelled(labels)), np.arange(50, 60)
    found = divided_ranks(request, "pretrained", both, train, labels, rows, 4)
    assert found.shape == (2, 10) and set(found.flatten().tolist()) <= {0, 1}
    with torch.no_grad():
        scores = both.scores(train.tokens[50:60])
    assert ((found == 0) == (scores.argmax(2).numpy() == labels[50:60])).all()


def test_training_is_a_plain_loop_of_adamw(run):
    train, labels = hidden_signs(50, 0)
    choice, recipe = HeadSettings(lr=3e-3, weight_decay=0.1), AttentiveRecipe(3, 16)
    trained, config, data = heads_trained(run, train, labels, [choice], recipe, "plain")
    plan = make_plan(config, 50, 1, 0)
    head = AttentiveHead(WIDTH, 2, torch.Generator().manual_seed(0))
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 0.0, (0.9, 0.999), weight_decay=choice.weight_decay)
    stream = list(data.batches(config, plan.sharding, (16, 16), 0, plan.steps))
    seen = torch.cat([batch.samples for batch in stream])
    assert seen[:50].sort().values.tolist() == list(range(50))
    for step, batch in enumerate(stream):
        assert torch.equal(batch.labels, torch.from_numpy(labels)[batch.samples])
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step, config)
        optimizer.zero_grad()
        F.cross_entropy(head(train.tokens[batch.samples]), batch.labels).backward()
        optimizer.step()
    for name, ours in head.state_dict().items():
        torch.testing.assert_close(trained.heads[0].state_dict()[name], ours, rtol=1e-4, atol=1e-6)
    assert len(final_weights(run / "plain")) == len(head.state_dict()), "and no encoder"


def test_recorded_steps_are_the_steps_of_the_run(run):
    train, labels = hidden_signs(50, 0)
    recipe = AttentiveRecipe(41, 16)
    heads_trained(run, train, labels, [HeadSettings()], recipe, "steps")
    assert metrics_of(run / "steps")[-1]["step"] == recipe.steps(50) == -(-41 * 50 // 16)


def test_cached_and_fresh_tokens_agree_in_any_order(tmp_path, make_shards):
    images, encoder = images_of(make_shards(tmp_path / "shards", 10)), tiny_encoder()
    cached = CachedTokens(load_or_encode(encoder, images, tmp_path, tokens=True, log=silent), "cpu")
    fresh = fresh_tokens(encoder, images, tmp_path)
    batches = [np.array([7, 0, 9]), np.array([3])]
    for kept, new in zip(cached.load(batches), fresh.load(batches), strict=True):
        assert kept.dtype == torch.float32 and kept.shape[1:] == (17, 32)  # 4 x 4, class token
        torch.testing.assert_close(kept, new, rtol=2e-3, atol=2e-3)  # batches of other sizes
    pixels = fresh.inputs(np.array([3]))
    assert pixels.dtype == torch.uint8 and cached.inputs(np.array([3])).dtype == torch.float16
    vectors = {"cls": torch.zeros(1, 2), "mean": torch.ones(1, 2), "tokens": torch.ones(1, 3, 2)}
    assert joined(vectors)[0, :, 0].tolist() == [0, 1, 1, 1]


def fresh_tokens(encoder, images, folder, max_bad=0):
    views = CentredViews(images, encoder.img_size, encoder.crop_pct)
    usable = usable_samples(views, max_bad, folder / "usable")
    return EncodedTokens(encoder, images, "cpu", 0, usable)


def test_too_few_images_are_refused(run):
    train, labels = hidden_signs(19, 0)
    with pytest.raises(UserError, match="--train: 19 images; an attentive probe needs 20"):
        probed(run, train, labels, train, labels, AttentiveRecipe())


def test_bad_images_have_no_row_cached_or_encoded(tmp_path, make_shards):
    pattern = make_shards(tmp_path / "shards", 26)
    spoil(tmp_path / "shards", "sample-00003", "sample-00008")
    images, encoder = images_of(pattern), tiny_encoder()
    kept = CachedTokens(
        load_or_encode(encoder, images, tmp_path, tokens=True, max_bad=2, log=silent), "cpu"
    )
    reports = []
    for name, tokens in (("kept", kept), ("fresh", fresh_tokens(encoder, images, tmp_path, 2))):
        assert tokens.samples.tolist() == [i for i in range(26) if i not in (3, 8)]
        assert len(tokens.skipped) == 2 and "key sample-00008" in tokens.skipped[1]
        encoded = [EncodedData("pretrained", tokens, tokens)]
        request = probing(tiny_run(tmp_path / name, 0.0), images, images)
        recipe, candidates = AttentiveRecipe(2, 16), [HeadSettings(lr=1e-2, weight_decay=0.1)]
        reports.append(attentive_report(request, encoded, recipe, candidates))
        names = token_data(tokens, np.array([3, 7]), images, 0).manifest
        assert [names.key(0), names.key(1)] == ["sample-00004", "sample-00009"]
    for report in reports:
        assert report["train_images"] == 24 and len(report["test"]["skipped"]) == 2
        json.dumps(report)
    ours, theirs = (report["results"][0]["accuracy"] for report in reports)
    assert ours == pytest.approx(theirs, abs=1 / 24 + 1e-9)  # batches of other sizes
    with pytest.raises(UserError, match=r"2 bad images so far, more than data.max_bad = 1"):
        fresh_tokens(encoder, images, tmp_path, 1)


def test_the_report_compares_with_the_untrained_encoder(run, tmp_path, make_shards):
    """Tokens that hold the class, compared with tokens that hold nothing."""
    images = images_of(make_shards(tmp_path / "shards", 60))
    labels = np.asarray(images.manifest.label, np.int64)
    rng = np.random.default_rng(0)
    blind = rng.standard_normal((60, 4, WIDTH)).astype(np.float32)
    seeing = blind.copy()
    seeing[:, :, 0] += 4 * (labels[:, None] - 1)
    encoded = [
        EncodedData(name, InMemory(tokens), InMemory(tokens))
        for name, tokens in (("pretrained", seeing), ("untrained", np.zeros_like(blind)))
    ]
    lines = []
    candidates = [HeadSettings(lr=lr, weight_decay=0.1) for lr in (1e-3, 1e-2)]
    request = probing(run, images, images, lines.append, baselines=True)
    report = attentive_report(request, encoded, AttentiveRecipe(8, 16), candidates)
    ours, untrained = report["results"]
    above = ours["above"]["untrained"]
    assert ours["accuracy"] > 0.8 and untrained["accuracy"] == pytest.approx(1 / 3)
    assert above["difference"] == pytest.approx(ours["accuracy"] - untrained["accuracy"])
    assert 0.2 < above["interval"][0] < above["difference"] < above["interval"][1]
    assert "above" not in untrained and "top5_accuracy" not in ours
    assert [row["lr"] for row in ours["sweep"]] == [1e-3, 1e-2] and ours["lr"] in (1e-3, 1e-2)
    assert {line.partition(":")[0] for line in lines} == {"pretrained", "untrained"}
    shown = table("attentive", report).splitlines()
    assert "above untrained" in shown[0]
    assert [line.split()[0] for line in shown[2:4]] == ["untrained", "always"]
    assert "note: 30 steps: more --epochs, for 2,500, may do better" in shown
    assert report["recipe"]["steps"] == 30 and "ImageNet" in report["measures"]
    assert not ours["lr_at_edge"], "of two learning rates"


def test_small_data_sets_get_more_epochs():
    for images, size, epochs in ((1_281_167, 256, 20), (32_000, 256, 20), (5_000, 256, 128)):
        assert epochs_for(images, size) == epochs
    for images, size in ((5_000, 256), (7, 256), (300, 100), (31_999, 256)):
        recipe = AttentiveRecipe(epochs_for(images, size), size)
        assert recipe.steps(images) >= LEAST_STEPS
        assert recipe._replace(epochs=recipe.epochs - 1).steps(images) < LEAST_STEPS


def test_a_learning_rate_at_the_edge_is_noted(run, tmp_path, make_shards):
    candidates = [
        HeadSettings(lr=lr, weight_decay=decay)
        for decay in (0.1, 0.01)
        for lr in (1e-3, 1e-2, 3e-2)
    ]
    assert rate_at_edge(candidates, [0.1, 0.2, 0.1, 0.1, 0.1, 0.3])
    assert rate_at_edge(candidates, [0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert not rate_at_edge(candidates, [0.1, 0.2, 0.3, 0.1, 0.3, 0.1])
    assert not rate_at_edge(candidates[:2], [0.1, 0.2])
    assert max(RATES) == 3e-2
    images = images_of(make_shards(tmp_path / "shards", 60))
    rng = np.random.default_rng(0)
    tokens = InMemory(rng.standard_normal((60, 4, WIDTH)).astype(np.float32))
    tokens.tokens[:, :, 0] += 4 * (torch.from_numpy(images.manifest.label)[:, None] - 1)
    candidates = [HeadSettings(lr=lr, weight_decay=0.1) for lr in (1e-9, 1e-8, 1e-2)]
    request = probing(run, images, images)
    encoded = [EncodedData("pretrained", tokens, tokens)]
    report = attentive_report(request, encoded, AttentiveRecipe(8, 16), candidates)
    note = "pretrained: lr 0.01 at the edge of the candidates, one beyond may do better"
    assert report["results"][0]["lr_at_edge"] and report["notes"][1] == note
    assert f"note: {note}" in table("attentive", report).splitlines()
