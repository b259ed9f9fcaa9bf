"""A training step on synthetic images, as a function to time."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from mae.base.device import keep_freed_memory
from mae.base.errors import UserError
from mae.commands.bench.cases import OURS, Case
from mae.config.sections import Config
from mae.data.batch import Batch, TrainingBatch
from mae.objectives.base import Objective
from mae.objectives.registry import declaration, implementation
from mae.training.meter import Meter
from mae.training.plan import build_accelerator
from mae.training.step import Step, attention_kernel, build_learner, train_step

LR = 1e-4
STEPS = 10**6
"""steps of the imaginary run that the measured steps are part of"""
METER_EVERY = 20
"""steps between two readings of the meter, the only time that the training loop waits for the
device; as `log.every`"""

TimedStep = Callable[[], Tensor]
"""does one optimizer step and returns its loss, on the device"""


def build_step(case: Case) -> TimedStep:
    """Build our training step of `case`.

    Raises UserError for invalid settings, and where `build_objective` does.
    """
    assert case.implementation == OURS, case.implementation
    config = case.config()
    accelerator = build_accelerator(config.train)
    torch.manual_seed(0)
    objective = build_objective(config)
    batch = synthetic_batch(config, objective.img_size, case.batch_size)
    return our_step(objective, config, batch, accelerator)


def our_step(
    objective: Objective, config: Config, batch: TrainingBatch, accelerator: Accelerator
) -> TimedStep:
    """Step of the training loop, with its meter, on a batch that is already on the device."""
    device = accelerator.device
    keep_freed_memory(device)  # as a run does at its start
    learner = build_learner(config, objective, accelerator)
    learner.model.train()
    images, seeds, labels = (
        one.to(device) for one in (batch.images, batch.seeds, batch.labels) if torch.is_tensor(one)
    )
    meter = Meter.of(device, declaration(config.objective))
    done = 0

    def step() -> Tensor:
        nonlocal done
        done += 1
        fed = batch._replace(images=images, seeds=seeds + done * len(seeds), labels=labels)
        with attention_kernel(config.train):
            loss = train_step(learner, [fed], Step(done, STEPS, LR), meter)
        if done % METER_EVERY == 0:
            meter.read(lambda sums, how: sums)
        return loss

    return step


def build_objective(config: Config) -> Objective:
    """Build the objective of `config`, initialised from torch's generator, on its default device.

    Raises UserError where a setting is missing that a run takes from its training data, or where
    the objective does not accept the batch size.
    """
    declared = declaration(config.objective)
    if missing := sorted(declared.completed_keys(config)):
        raise UserError(
            f"bench: objective {config.objective} takes {', '.join(missing)} from its training "
            "data, and synthetic images have none: set it (section.key=value)"
        )
    multiple, reason = declared.batch_multiple(config)
    if config.train.batch_size % multiple:
        raise UserError(f"bench: {config.train.batch_size} images at a time; {reason}")
    return implementation(config.objective).build(config)


def synthetic_images(config: Config, img_size: tuple[int, int], count: int) -> Tensor:
    """Random pixels from torch's generator, [b c h w], of the type that `data.bits` sets."""
    shape = (count, config.data.in_chans, *img_size)
    if config.data.is_float:
        return torch.randn(shape)
    if config.data.bits == 8:
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch.randint(0, 2**config.data.bits, shape, dtype=torch.int32).to(torch.uint16)


def synthetic_batch(config: Config, img_size: tuple[int, int], count: int) -> Batch[Tensor]:
    """Batch of synthetic images as the loader makes batches, all of class 0."""
    numbers = torch.arange(count)
    images = synthetic_images(config, img_size, count)
    labels = torch.zeros_like(numbers)
    return Batch(images=images, seeds=numbers, samples=numbers, labels=labels, bad=[])
