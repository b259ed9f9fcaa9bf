"""RandAugment as a function of a key: timm's pixels, and nobody else's chances."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from mae.base.errors import UserError
from mae.data.batch import BatchSharding
from mae.data.training_data import open_training_data
from mae.data.transform import build_augment, posterize
from mae.objectives.registry import config_type, declaration

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.5, 0.4, 0.3)


@pytest.fixture
def view(make_image):
    return torch.from_numpy(make_image(3, (20, 24))).permute(2, 0, 1)


def test_the_pixels_are_timms_under_the_same_seeds(view):
    """Set up as timm's own training does: colours filled in, distances, resampling."""
    filled = tuple(round(255 * value) for value in MEAN)
    settings = {"translate_const": 9, "img_mean": filled, "interpolation": Image.Resampling.BICUBIC}
    theirs = rand_augment_transform(POLICY, settings)
    ours, image = build_augment(POLICY, MEAN, (20, 24)), view.permute(1, 2, 0).numpy()
    compared = changed = 0
    for key in range(60):
        random.seed(key)
        np.random.seed(key)
        try:
            expected = np.array(theirs(Image.fromarray(image)))
        except ValueError:  # posterize to 0 bits: newer versions of Pillow refuse it
            continue
        compared += 1
        changed += not np.array_equal(expected, image)
        np.testing.assert_array_equal(ours(view, key).permute(1, 2, 0).numpy(), expected)
    assert compared > 40 and changed > 30


def test_a_key_of_64_bits_decides_and_nothing_else(view):
    augment = build_augment(POLICY, MEAN, (20, 24))
    keys = [2**63 + number for number in range(20)]
    first = [augment(view, key) for key in keys]
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    again = [augment(view, key) for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first}) > 10
    assert all(one.shape == view.shape and one.dtype == torch.uint8 for one in first)


def test_the_generators_of_others_are_left_alone(view):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    build_augment(POLICY, MEAN, (20, 24))(view, 7)
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_they_are_left_alone_by_an_error_too(view):
    random.seed(1)
    before = random.getstate()
    with pytest.raises(TypeError):
        build_augment(POLICY, MEAN, (20, 24))(view.float(), 7)
    assert random.getstate() == before


def test_posterize_keeps_so_many_bits_none_of_them_being_black(view):
    image = Image.fromarray(view.permute(1, 2, 0).numpy())
    pixels = np.array(image)
    for bits in range(1, 9):
        kept = np.array(posterize(image, bits, fillcolor=(1, 2, 3), resample=3))
        np.testing.assert_array_equal(kept, pixels & (0xFF << (8 - bits) & 0xFF))
    assert not np.array(posterize(image, 0)).any()


def test_the_strongest_policy_never_fails(view):
    """Whose posterize keeps 0 bits."""
    augment = build_augment("rand-m10-n4-inc1-p1.0", MEAN, (20, 24))
    for key in range(60):
        augment(view, key)


@pytest.mark.parametrize("policy", ["trivial", "rand-m9-x3", "augmix-m3"])
def test_an_unknown_policy_is_refused_in_a_line(policy):
    with pytest.raises(UserError) as refused:
        build_augment(policy, MEAN, (20, 24), "finetune.rand_augment")
    assert str(refused.value) == f"finetune.rand_augment: {policy!r}: timm has no such policy"


def settings_of(shards, **finetune):
    values = {
        "objective": "classifier",
        "data": {"train": shards, "workers": 0},
        "train": {"batch_size": 8},
        "finetune": finetune,
    }
    return open_training_data(config_type("classifier").model_validate(values))


def stream(config, data, processes=1, workers=0):
    """Images of the first three steps, by all processes, in the order of the stream."""
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": workers})})
    found = [
        [*data.batches(config, BatchSharding(8, processes, rank, 1), (16, 16), 0, 3)]
        for rank in range(processes)
    ]
    return torch.cat([one.images for step in zip(*found, strict=True) for one in step])


def test_neither_workers_nor_processes_change_an_image(make_shards, tmp_path):
    shards = make_shards(tmp_path, 24)
    config, data = settings_of(shards)
    expected = stream(config, data)
    assert torch.equal(stream(config, data, workers=2), expected)
    assert torch.equal(stream(config, data, processes=4), expected)
    plain = stream(*settings_of(shards, rand_augment=""))
    differ = (plain != expected).flatten(1).any(1)
    assert differ.float().mean() > 0.6  # each of two operations is left out half of the time


def test_only_a_classifier_is_augmented():
    def augmentation(objective, **sections):
        config = config_type(objective).model_validate({"objective": objective, **sections})
        return declaration(objective).augmentation(config, (16, 16))

    assert augmentation("mae") is None
    assert augmentation("classifier", finetune={"rand_augment": ""}) is None
    assert augmentation("classifier") is not None
