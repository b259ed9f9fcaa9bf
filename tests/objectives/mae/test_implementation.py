"""Rows of health.jsonl: R² on hidden patches beside the health of the features."""

import json
import math

import numpy as np
import pytest
import torch

from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.loading import load_config
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.views import CentredViews
from mae.objectives.implementation import HeldOut
from mae.objectives.mae.implementation import IMPLEMENTATION
from mae.objectives.mae.reconstruction import count_flat, explained_variance
from tests.objectives.mae.test_model import small_mae

COUNT = 72
FIGURES = ("r2", "r2_interpolation", "r2_patch_mean")


def held_out(images: Images, crop_pct=1.0, seed=0, limit=1000) -> HeldOut:
    """Held-out images for one process on the CPU."""
    settings = [f"data.crop_pct={crop_pct}", f"train.seed={seed}", f"log.health_images={limit}"]
    config, device = load_config(None, settings), torch.device("cpu")
    return HeldOut(
        images=images,
        config=config,
        device=device,
        process_index=0,
        num_processes=1,
        gather=lambda own: own,
        log=print,
    )


@pytest.fixture(scope="module")
def images(make_shards, tmp_path_factory):
    shards = make_shards(tmp_path_factory.mktemp("shards"), COUNT)
    return Images(build_manifest([shards], "test"), 3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return small_mae()


def test_every_value_equals_its_own_computation(images, model):
    found = IMPLEMENTATION.measure(model, held_out(images, 0.9, seed=3))
    views = CentredViews(images, model.img_size, 0.9)
    pixels = torch.stack([views.view(number) for number in range(COUNT)])
    seeds = as_tensor(fold(3, Stream.PANEL, np.arange(COUNT)))
    explained = explained_variance(model.eval(), [(pixels, seeds)])
    assert found["r2"] == pytest.approx(explained.model, abs=1e-5)
    assert found["r2_interpolation"] == pytest.approx(explained.interpolation, abs=1e-5)
    assert found["r2_patch_mean"] == pytest.approx(explained.patch_mean, abs=1e-5)
    assert (found["images"], found["bad"], found["width"]) == (COUNT, 0, 32)
    assert found["flat_patches"] == 0


def test_patches_that_vary_by_less_than_a_level_are_flat():
    """Of 16 patches of 4 px: two constant, one with a single other pixel, one of two levels."""
    model, generator = small_mae(), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images[:, :, :4] = 90
    images[0, 0, 0, 8] = 91
    images[:, :, :4, 12::2] = 96
    assert count_flat(model, images).tolist() == [3, 16]


def test_evaluation_is_deterministic_and_without_dropout(images):
    model = small_mae(encoder={"proj_drop_rate": 0.5}).train()
    some = IMPLEMENTATION.measure(model, held_out(images, limit=40))
    assert some["images"] == 40 and model.training
    assert some == IMPLEMENTATION.measure(model, held_out(images, limit=40))
    other = IMPLEMENTATION.measure(model, held_out(images, seed=1, limit=40))
    assert all(some[key] != other[key] for key in ("r2", "r2_interpolation"))


def test_non_finite_weights_are_reported(images, model):
    with torch.no_grad():
        model.encoder.norm.bias.fill_(math.nan)
    found = IMPLEMENTATION.measure(model, held_out(images))
    assert math.isnan(found["r2"]) and math.isnan(found["rankme"])
    assert set(FIGURES) < set(json.loads(json.dumps(found)))
