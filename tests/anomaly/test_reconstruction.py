"""Scorer `reconstruction`."""

from typing import Any

import pytest
import torch

from mae.anomaly.reconstruction import (
    ROUNDS,
    ReconstructionError,
    reconstruction_features,
    squared_errors,
)
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import DataConfig
from mae.objectives.registry import config_type
from mae.training.checkpoint.trained import build_objective
from tests.evaluation.frozen import tiny_objective

CONV = {"latent_dim": 8, "width": 8, "depth": 1}


def images(count=3, size=(16, 16), seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), generator=random).to(torch.uint8)


def seeds(number, count):
    return as_tensor(fold(0, Stream.STATISTICS, number)).expand(count)


def test_each_patch_of_a_masked_autoencoder_is_scored_while_it_is_hidden():
    model: Any = tiny_objective()
    batch = images()
    truth, expected = batch.float() / 255, torch.zeros(3, 3, 16, 16)
    for number in range(ROUNDS):
        hidden = torch.zeros(3, 3, 16, 16)
        for split in model.covering_noises(batch, seeds(number, 3)):
            found = model.reconstruct(batch, split)
            chosen = found.mask.bool()
            expected[chosen] += (found.pasted - truth)[chosen].square() / ROUNDS
            hidden += found.mask
        assert (hidden == 1).all()  # every pixel once
    found = squared_errors(model, batch, 255)
    torch.testing.assert_close(found, expected)
    assert torch.equal(
        squared_errors(model, batch[1:2], 255)[0], squared_errors(model, batch, 255)[1]
    )


def test_windows_are_means_of_the_errors():
    model = tiny_objective()
    features = reconstruction_features(model, 8, "mae", "0")
    errors = squared_errors(model, images(), 255).mean(1)
    maps = features.maps(images())
    assert maps.shape == (3, 1, 15, 15) and features.rule.stride == (1, 1)
    torch.testing.assert_close(maps[:, 0, 4, 7], errors[:, 4:6, 7:9].mean((1, 2)))


@pytest.mark.parametrize("name", ["ae", "dae", "vae"])
def test_models_that_hide_nothing_have_their_plain_error(name):
    data = DataConfig(train=("gone.tar",), img_size=(16, 16))
    config = config_type(name).model_validate({"objective": name, "model": CONV, "data": data})
    torch.manual_seed(0)
    objective: Any = build_objective(config).eval()
    batch = images(size=objective.img_size)
    found = squared_errors(objective, batch, 255)
    assert found.shape == batch.shape and found.isfinite().all()
    assert torch.equal(found, squared_errors(objective, batch, 255))
    if name != "dae":
        whole = objective.reconstruct(batch, objective.draw(batch, seeds(0, 3)))
        torch.testing.assert_close(found, (whole.pasted - batch.float() / 255).square())


def test_scores_are_multiples_of_the_normal_error():
    scorer, maps = ReconstructionError(), torch.rand(6, 1, 4, 5) + 1
    parts = [scorer.collect(one, range(3), 0) for one in maps.split(2)]
    parameters = scorer.finish(scorer.merge(scorer.merge(*parts[:2]), parts[2]))
    scores = scorer.score(parameters, maps)
    assert scores.mean().item() == pytest.approx(1)
    torch.testing.assert_close(scores * maps.mean(), maps[:, 0])
