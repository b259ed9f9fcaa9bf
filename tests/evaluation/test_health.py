"""Health on real shards with tiny models; its numbers against plain computations."""

import json
import math
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mae.base.errors import StorageError, UserError
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.views import CentredViews
from mae.evaluation.health import (
    Health,
    held_out,
    mean_cosine,
    measure_health,
    rankme,
    relative_deviations,
)
from mae.objectives.base import Features
from mae.objectives.mae.implementation import IMPLEMENTATION
from tests import runs
from tests.objectives.mae.test_implementation import held_out as mae_held_out
from tests.objectives.mae.test_model import small_mae

COUNT = 72

TWO_PROCESSES = """
import json, sys
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.objectives.mae.implementation import IMPLEMENTATION
from tests.objectives.mae.test_implementation import held_out
from tests.objectives.mae.test_model import small_mae

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
model = small_mae()
images = Images(build_manifest([sys.argv[1]], "test"), 3)
here, world = accelerator.process_index, accelerator.num_processes
asked = held_out(images)._replace(process_index=here, num_processes=world, gather=gather_object)
row = IMPLEMENTATION.measure(model, asked)
with open(f"{sys.argv[2]}-{here}.json", "w") as file:
    json.dump([world, row], file)
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def shards(make_shards, tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), COUNT)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return small_mae()


def health_of(*arguments, **options) -> Health:
    """Health without the objective's own sums."""
    health, sums = measure_health(*arguments, **options)
    assert not len(sums)
    return health


def opened(pattern) -> Images:
    return Images(build_manifest([pattern], "test"), 3)


def spoil(folder: Path, *keys: str) -> None:
    """Overwrite images in the tars of `folder` in place, behind the back of their index."""
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            found = [(m.offset_data, m.size) for m in tar if m.name.partition(".")[0] in keys]
        with path.open("r+b") as file:
            for offset, size in (place for place in found if place[1] > 1):
                file.seek(offset)
                file.write(b"x" * size)


def test_every_number_equals_a_plain_computation(shards, model):
    images = opened(shards)
    found = health_of(model, images, 0.9, seed=3, limit=1000)
    views = CentredViews(images, model.img_size, 0.9)
    pixels = torch.stack([views.view(number) for number in range(COUNT)])
    model.eval()
    with torch.no_grad():
        features = model.encode(pixels).pooled["mean"].numpy()
    assert (found.images, found.bad, found.width) == (COUNT, 0, 32)
    assert found.rankme == pytest.approx(rankme(features), rel=1e-4)
    assert found.cosine == pytest.approx(mean_cosine(features), abs=1e-5)


def test_two_processes_give_the_results_of_one(shards, model, tmp_path):
    """Whole rows, with the objective's own sums."""
    alone = IMPLEMENTATION.measure(model, mae_held_out(opened(shards)))
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    subprocess.run(
        runs.forked(str(script), shards, str(tmp_path / "health")),
        check=True,
        env=runs.environment(),
        capture_output=True,
        timeout=120,
    )
    for process in range(2):
        world, found = json.loads((tmp_path / f"health-{process}.json").read_text())
        assert world == 2
        assert found == pytest.approx(alone, abs=1e-6)
        assert set(found) == {
            *Health._fields,
            "r2",
            "r2_interpolation",
            "r2_patch_mean",
            "flat_patches",
        }


def test_the_same_images_each_time_and_no_more_than_the_limit(shards, model):
    images = opened(shards)
    some = health_of(model, images, 1.0, 0, 40)
    assert some.images == 40
    assert some == health_of(model, images, 1.0, 0, 40)
    assert some.rankme != health_of(model, images, 1.0, 1, 40).rankme
    drawn = [number for batch in held_out(1000, 5, 300) for number in batch]
    assert len(set(drawn)) == 300 and drawn == sorted(drawn)
    assert min(np.histogram(drawn, 4, (0, 1000))[0]) > 50  # from everywhere


def test_measuring_does_not_change_training(shards, model):
    model.train()
    gradient = torch.ones_like(model.encoder.cls_token)
    model.encoder.cls_token.grad = gradient.clone()
    torch.manual_seed(7)
    np.random.seed(7)
    before, next_number = torch.get_rng_state(), np.random.RandomState(7).random()
    health_of(model, opened(shards), 1.0, 0, 60)
    assert model.training and model.encoder.training
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.random() == next_number
    assert torch.equal(model.encoder.cls_token.grad, gradient)
    health_of(model.eval(), opened(shards), 1.0, 0, 60)
    assert not model.training


def test_dropout_is_off_while_it_measures(shards):
    model = small_mae(encoder={"proj_drop_rate": 0.5}).train()
    assert health_of(model, opened(shards), 1.0, 0, 40) == health_of(
        model, opened(shards), 1.0, 0, 40
    )


def test_bad_images_are_skipped_and_counted(make_shards, tmp_path, model):
    pattern = make_shards(tmp_path / "shards", COUNT)
    images = opened(pattern)
    spoil(tmp_path / "shards", "sample-00003", "sample-00040")
    found = health_of(model, images, 1.0, 0, 1000)
    assert (found.images, found.bad) == (COUNT - 2, 2)
    assert math.isfinite(found.rankme)


def test_a_batch_of_nothing_but_bad_images_is_counted_too(make_shards, tmp_path, model):
    pattern = make_shards(tmp_path / "shards", COUNT)
    images = opened(pattern)
    spoil(tmp_path / "shards", *(f"sample-{number:05d}" for number in range(32)))
    found = health_of(model, images, 1.0, 0, 1000)
    assert (found.images, found.bad) == (COUNT - 32, 32)
    spoil(tmp_path / "shards", *(f"sample-{number:05d}" for number in range(COUNT)))
    with pytest.raises(UserError, match="none of 72 held-out images is readable"):
        health_of(model, images, 1.0, 0, 1000)


def test_storage_error_of_one_process_is_raised_by_all(make_shards, tmp_path, model):
    """Otherwise one would raise, and the others would wait for it in `gather`."""
    healthy = opened(make_shards(tmp_path / "shards", COUNT))
    for number in range(COUNT):
        healthy[number]  # keeps the shards open
    next((tmp_path / "shards").glob("*.tar")).unlink()
    broken, sent = Images(healthy.manifest, 3), []

    def measure(images, process, gather):
        health_of(
            model, images, 1.0, 0, 1000, process_index=process, num_processes=2, gather=gather
        )

    with pytest.raises(StorageError, match="cannot be read"):
        measure(broken, 0, lambda own: sent.extend(own) or own)
    with pytest.raises(StorageError, match="cannot be read"):
        measure(healthy, 1, lambda own: [*sent, *own])
    assert model.training


def test_accuracies_need_enough_labels(shards, make_shards, tmp_path, model):
    found = health_of(model, opened(shards), 1.0, 0, 1000)
    assert found.knn is not None and found.probe is not None and found.chance is not None
    assert found.probe > 0.6  # direction of a gradient, seen by an untrained encoder
    assert found.chance < 0.55
    few = health_of(model, opened(shards), 1.0, 0, 20)  # some 3 of each class are fitted
    assert (few.knn, few.probe, few.chance) == (None, None, None)
    unlabelled = opened(make_shards(tmp_path / "unlabelled", 40, labels=False))
    bare = health_of(model, unlabelled, 1.0, 0, 1000)
    assert (bare.knn, bare.probe) == (None, None) and bare.rankme > 1


def test_random_labels_score_as_chance(make_tar, make_image, make_shards, tmp_path, model):
    images = opened(make_shards(tmp_path / "shards", 400))
    shuffled = np.random.default_rng(0).permutation(np.asarray(images.manifest.label))
    np.asarray(images.manifest.label)[:] = shuffled
    found = health_of(model, images, 1.0, 0, 1000)
    assert found.knn == pytest.approx(1 / 3, abs=0.1)
    assert found.probe == pytest.approx(1 / 3, abs=0.1)


def test_collapsed_encoder_changes_every_number(shards, model):
    with torch.no_grad():
        model.encoder.norm.weight.zero_()
        model.encoder.norm.bias.fill_(1.0)
    found = health_of(model, opened(shards), 1.0, 0, 1000)
    assert found.rankme == pytest.approx(1, abs=1e-3)
    assert found.spread == pytest.approx(0, abs=1e-5)
    assert found.dead == 1 and found.cosine == pytest.approx(1)


def test_non_finite_weights_give_nan(shards, model):
    with torch.no_grad():
        model.encoder.norm.bias.fill_(math.nan)
    found = health_of(model, opened(shards), 1.0, 0, 1000)
    assert math.isnan(found.rankme) and math.isnan(found.spread) and math.isnan(found.dead)
    assert found.knn is None
    assert set(json.loads(json.dumps(found._asdict()))) == set(Health._fields)


def test_an_objective_without_pooled_features_is_refused_on_every_process(shards, model):
    """Also on a process without images, on which the others wait."""
    sent = []
    model.encode = lambda images: Features({})

    def measure(process, gather):
        health_of(
            model,
            opened(shards),
            1.0,
            0,
            20,
            process_index=process,
            num_processes=2,
            gather=gather,
        )

    with pytest.raises(UserError, match="the objective has no pooled features"):
        measure(0, lambda own: sent.extend(own) or own)
    with pytest.raises(UserError, match="the objective has no pooled features"):
        measure(1, lambda own: [*sent, *own])


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_rankme_is_the_rank_of_evenly_used_dimensions(rank):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in (300, 64))
    assert rankme((7 * left @ right.T).astype(np.float32)) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_a_fading_spectrum_against_the_definition():
    rng = np.random.default_rng(1)
    features = (rng.standard_normal((200, 10)) * 0.5 ** np.arange(10)).astype(np.float32)
    eigenvalues = np.linalg.eigvalsh(features.astype(np.float64).T @ features.astype(np.float64))
    shares = eigenvalues**0.5 / (eigenvalues**0.5).sum()
    assert rankme(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_deviations_and_cosines_at_both_ends():
    rng = np.random.default_rng(0)
    everywhere = rng.standard_normal((2000, 64)).astype(np.float32)
    assert relative_deviations(everywhere).mean() == pytest.approx(1, abs=0.01)
    assert mean_cosine(everywhere) == pytest.approx(0, abs=0.01)
    dead = everywhere.copy()
    dead[:, :16] = 0
    assert (relative_deviations(dead) < 0.01).mean() == 0.25
    pair = np.array([[1, 0], [1, 1]], np.float32)
    assert mean_cosine(pair) == pytest.approx(math.cos(math.pi / 4))
    assert mean_cosine(pair[:1]) == 1
