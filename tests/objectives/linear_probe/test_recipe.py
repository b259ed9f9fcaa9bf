import math

import pytest

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.objectives.linear_probe.recipe import (
    ProbeRecipe,
    batch_for,
    remarks,
    sizes,
    training_sections,
)
from mae.training.plan import make_plan

IMAGENET = 1_281_167


def settings(recipe, samples):
    batch_size, group, warmup_epochs = sizes(recipe, samples)
    sections = training_sections(recipe, batch_size, group, warmup_epochs, samples)
    model = {"group": group}
    return load_config(None, base={"objective": "linear_probe", "model": model, **sections})


def plan_for(recipe, samples, processes=1):
    return make_plan(settings(recipe, samples), samples, processes, 0)


def test_imagenet_gets_the_published_numbers():
    config = settings(ProbeRecipe(), IMAGENET)
    plan = make_plan(config, IMAGENET, 1, 0)
    assert plan.sharding.batch_size == 16384 and plan.sharding.device_batch == 512
    assert plan.lr == pytest.approx(6.4)
    assert plan.steps == round(90 * IMAGENET / 16384) == 7038
    assert config.optim.name == "lars" and config.optim.betas[0] == 0.9
    assert config.optim.weight_decay == 0 and config.optim.clip_grad == 0
    rates = [plan.lr_at(step, config) for step in range(plan.steps)]
    epochs = [step * 16384 / IMAGENET for step in range(plan.steps)]
    for rate, epoch in zip(rates, epochs, strict=True):
        wanted = (
            6.4 * epoch / 10 if epoch < 10 else 3.2 * (1 + math.cos(math.pi * (epoch - 10) / 80))
        )
        assert rate == pytest.approx(wanted)
    assert rates[0] == 0 and max(rates) == pytest.approx(6.4, rel=1e-3) and rates[-1] < 1e-5


def test_small_data_have_small_batches_and_impossible_ones_are_refused():
    assert [batch_for(n, None) for n in (16384 * 10, 50_000, 3068, 200, 5)] == [
        16384,
        4096,
        256,
        16,
        2,
    ]
    assert plan_for(ProbeRecipe(batch_size=1000, device_batch=300), 5000).sharding.accumulation == 4
    for size in (1, 101):
        with pytest.raises(UserError, match=rf"--step-batch: {size} is not in 2..100"):
            batch_for(100, size)
    for epochs, given in ((10, 10.0), (10, 12.0)):
        recipe = ProbeRecipe(epochs=epochs, warmup_epochs=given)
        with pytest.raises(UserError, match=f"--warmup-epochs: {given:g}, but --epochs is only 10"):
            sizes(recipe, 5000)
    assert sizes(ProbeRecipe(epochs=9), 5000).warmup_epochs == 1
    assert sizes(ProbeRecipe(epochs=900), 5000).warmup_epochs == 10
    with pytest.raises(UserError, match="523 does not divide into parts of 2 to 512 images"):
        sizes(ProbeRecipe(batch_size=523), 1000)


def test_processes_take_whole_groups_or_are_refused_in_one_line():
    recipe = ProbeRecipe(batch_size=16384)
    for processes, parts in ((1, 32), (8, 4), (32, 1)):
        sharding = plan_for(recipe, IMAGENET, processes).sharding
        assert sharding.accumulation == parts and sharding.device_batch == 512
    with pytest.raises(UserError) as error:
        plan_for(recipe, IMAGENET, 64)
    assert str(error.value) == (
        "train.batch_size: 16384 gives each process 256 images at a time; BatchNorm needs whole "
        "groups of 512 (--step-batch, --device-batch); it works with 1, 2, 4, 8, 16, 32 processes"
    )


def test_groups_larger_than_what_fits_at_once_are_refused():
    config = settings(ProbeRecipe(batch_size=1024), 5000)
    train = config.train.model_copy(update={"max_device_batch": 300})
    with pytest.raises(
        UserError, match=r"256 images at a time; BatchNorm needs .*--device-batch\)$"
    ):
        make_plan(config.model_copy(update={"train": train}), 5000, 1, 0)
    train = config.train.model_copy(update={"max_device_batch": 1000})
    plan = make_plan(config.model_copy(update={"train": train}), 5000, 1, 0)
    assert plan.sharding.device_batch == 512


def test_unmirrored_crops_have_a_remark():
    recipe = ProbeRecipe(epochs=3, batch_size=8, device_batch=4, warmup_epochs=1, blr=4.0)
    mirrored, plain = (list(remarks(recipe, 24, 9, flip)) for flip in (True, False))
    assert plain[1:] == mirrored
    assert plain[0].startswith("crops are not mirrored, as data.flip is false")
