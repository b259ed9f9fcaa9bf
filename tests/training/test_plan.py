"""The division of a batch among processes and micro-batches."""

import pytest

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.training.plan import make_plan


def plan(objective, processes=1, **train):
    settings = {"objective": objective, "train": {"epochs": 100, **train}}
    settings |= {"data": {"img_size": 32}} if objective == "vae" else {}
    return make_plan(load_config(None, base=settings), 10_000, processes, 0)


@pytest.mark.parametrize(("objective", "is_offered"), [("mae", True), ("vae", False)])
def test_a_batch_above_the_data_is_refused_and_auto_offered(objective, is_offered):
    with pytest.raises(UserError, match=r"only 10000: try train\.batch_size=1024") as error:
        plan(objective, batch_size=16_384)
    assert ("or mae pretrain auto, which" in str(error.value)) == is_offered
    chosen = {"auto": {"chosen": {"data.bits": "8 bits"}}, "train": {"batch_size": 16_384}}
    with pytest.raises(UserError, match=r"size=1024$"):
        make_plan(load_config(None, base=chosen), 10_000, 1, 0)


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


def test_intervals_are_shares_of_a_short_run_unless_they_are_set():
    def found(epochs, train=None, log=None):
        settings = {"train": {"epochs": epochs, "batch_size": 100, **(train or {})}}
        settings |= {"log": log or {}, "optim": {"warmup_epochs": 0}}
        config = load_config(None, base=settings)
        plan = make_plan(config, 10_000, 1, 0)
        return plan.intervals, plan.intervals.recorded_in(config)

    short, recorded = found(3)
    assert short == (60, 30, 0.6)  # of 300 steps
    assert recorded.train.checkpoint_every == 60 and recorded.log.panel_every == 30
    assert recorded.log.health_every == 0.6
    assert found(800)[0] == (500, 1000, 10)
    assert found(0.01)[0] == (1, 1, 0.002)
    own = found(3, {"checkpoint_every": 7}, {"panel_every": 0, "health_every": 0})[0]
    assert own == (7, 0, 0)
