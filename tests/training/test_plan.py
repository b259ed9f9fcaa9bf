"""The division of a batch among processes and micro-batches."""

import pytest

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.training.plan import make_plan


def plan(objective, processes=1, **train):
    settings = {"objective": objective, "train": {"epochs": 100, **train}}
    return make_plan(load_config(None, base=settings), 10_000, processes, 0)


def test_accumulation_is_the_smallest_that_fits_the_device():
    assert plan("mae", batch_size=12, max_device_batch=12).sharding.accumulation == 1
    assert plan("mae", batch_size=12, max_device_batch=5).sharding.accumulation == 3
    assert plan("mae", 2, batch_size=12, max_device_batch=5).sharding.accumulation == 2


def test_accumulation_leaves_what_the_objective_needs_a_multiple_of():
    sharding = plan("classifier", 2, batch_size=12, max_device_batch=5).sharding
    assert sharding.accumulation == 3 and sharding.device_batch == 2, "pairs, not threes"
    with pytest.raises(UserError) as error:
        plan("classifier", 4, batch_size=12, max_device_batch=5)
    assert str(error.value) == (
        "train.batch_size: 12 gives each process 3 images at a time; mixup and cutmix need an even "
        "number (train.max_device_batch, finetune.mixup); it works with 1, 2, 3, 6 processes"
    )
    with pytest.raises(UserError, match=r"finetune\.mixup\)$"):
        plan("classifier", batch_size=9)
