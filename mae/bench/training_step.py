"""One whole training step on synthetic images, ready to be called."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from mae.base.device import keep_freed_memory
from mae.bench.cases import OURS, Case
from mae.bench.synthetic import build, synthetic_batch
from mae.config.sections import Config
from mae.data.batch import TrainingBatch
from mae.objectives.base import Objective
from mae.objectives.registry import declaration
from mae.training.meter import Meter
from mae.training.plan import build_accelerator
from mae.training.step import Step as Place
from mae.training.step import attention_kernel, build_learner, train_step

LR = 1e-4
STEPS = 10**6
"""of the run that the step is one of"""
REPORT_EVERY = 20
"""steps, as log.every: reading the numbers is the only time that the loop waits for the device"""

Step = Callable[[], Tensor]
"""does one step and returns its loss, on the device"""


def build_step(case: Case) -> Step:
    """Our step of `case`.  Raises UserError where its model or mode cannot be had."""
    assert case.implementation == OURS, case.implementation
    config = case.config()
    accelerator = build_accelerator(config.train)
    torch.manual_seed(0)
    objective = build(config)
    batch = synthetic_batch(config, objective.img_size, case.batch_size)
    return our_step(objective, config, batch, accelerator)


def our_step(
    objective: Objective, config: Config, batch: TrainingBatch, accelerator: Accelerator
) -> Step:
    """A step of the training loop, meter included, on a batch that is on the device by then."""
    device = accelerator.device
    keep_freed_memory(device)  # as a run does at its start
    learner = build_learner(config, objective, accelerator)
    learner.model.train()
    images, words, labels = (
        one.to(device) for one in (batch.images, batch.seeds, batch.labels) if torch.is_tensor(one)
    )
    meter = Meter.of(device, declaration(config.objective))
    taken = 0

    def step() -> Tensor:
        nonlocal taken
        taken += 1
        fed = batch._replace(images=images, seeds=words + taken * len(words), labels=labels)
        with attention_kernel(config.train):
            loss = train_step(learner, [fed], Place(taken, STEPS, LR), meter)
        if taken % REPORT_EVERY == 0:
            meter.read(lambda sums, how: sums)
        return loss

    return step
