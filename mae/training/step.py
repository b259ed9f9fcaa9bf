"""One optimizer step of an objective, shared by training loop, dry run and benchmarks."""

import contextlib
import random
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae.base.hashing import Stream, Words, fold
from mae.config.sections import Config, TrainConfig
from mae.data.batch import TrainingBatch
from mae.objectives.base import Merge, Objective, Output, StepEnd, total_loss
from mae.objectives.registry import implementation
from mae.training.checkpoint.average import MovingAverage
from mae.training.fsdp2 import prepare
from mae.training.meter import Meter
from mae.training.optim import build_optimizer, set_lr, take_step
from mae.training.prefetcher import DevicePrefetcher

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""train.attention → kernel of torch's scaled dot-product attention"""


@dataclass(frozen=True)
class Learner:
    """An objective on its device with optimizer, accelerator, weight average and prefetcher."""

    config: Config
    objective: Objective
    model: nn.Module
    """the objective as accelerate wraps it (DDP, FSDP2, autocast); for training steps only"""
    optimizer: AcceleratedOptimizer
    accelerator: Accelerator
    average: MovingAverage | None
    """moving average of the weights; None where train.ema is 0"""
    prefetcher: DevicePrefetcher


class Step(NamedTuple):
    """Number and learning rate of an optimizer step."""

    number: int
    """counted from 1"""
    total: int
    """steps of the run"""
    lr: float
    """peak learning rate of the parameter groups in this step"""
    accumulation: int = 1
    """micro-batches per process"""


def build_learner(config: Config, objective: Objective, accelerator: Accelerator) -> Learner:
    """Move `objective` to its device, compile it, build its optimizer and wrap it for training."""
    objective.to(accelerator.device)
    objective.set_grad_checkpointing(config.train.grad_checkpointing)
    # FSDP2 gathers weights between the blocks: graph breaks are unavoidable there.
    compile_step(objective, config.train, may_break=accelerator.is_fsdp2)
    groups = implementation(config.objective).parameter_groups(objective, config)
    optimizer = build_optimizer(groups, config.optim)
    model, optimizer = prepare(objective, optimizer, accelerator)
    average = MovingAverage(objective, config.train.ema) if config.train.ema else None
    prefetcher = DevicePrefetcher(accelerator.device)
    return Learner(
        config=config,
        objective=objective,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        average=average,
        prefetcher=prefetcher,
    )


def train_step(
    learner: Learner, batches: Iterable[TrainingBatch], step: Step, meter: Meter | None = None
) -> Tensor:
    """Do one optimizer step on `step.accumulation` micro-batches; returns the last one's loss.

    A step whose gradient is not finite leaves weights and optimizer state unchanged.  Nothing
    waits for the device.  `meter` accumulates losses and statistics of the objective.
    """
    config, accelerator, objective = learner.config, learner.accelerator, learner.objective
    seed, device = config.train.seed, accelerator.device
    set_lr(learner.optimizer, step.lr)
    begin_step(config.train)
    progress = torch.full((), min(1.0, (step.number - 1) / step.total), device=device)
    carried: list[dict[str, Tensor]] = []
    loss = torch.zeros((), device=device)
    for micro, batch in enumerate(batches):
        # Seeded after the loader, whose first batch also draws from these generators: dropout and
        # the like must not depend on the step at which the run was resumed.
        words = fold(seed, Stream.STEP, step.number, micro, accelerator.process_index)
        seed_libraries(words, device)
        is_synced = micro == step.accumulation - 1
        with contextlib.nullcontext() if is_synced else accelerator.no_sync(learner.model):
            output = forward(learner, batch, progress)
            loss = total_loss(output)
            accelerator.backward(loss / step.accumulation)
        carried.append(output.carry)
        if meter:
            meter.add(output)
    update = take_step(learner.optimizer, config.optim.clip_grad)
    if meter:
        meter.end_step(step.number, update.grad_norm)
    carry = merge_carry(carried, objective.merges, accelerator)
    objective.after_step(StepEnd(step.number, seed, update.skipped, carry))
    if learner.average:
        learner.average.update(step.number)
    return loss.detach()


def forward(learner: Learner, batch: TrainingBatch, progress: Tensor) -> Output:
    """Forward pass of one micro-batch through the wrapped objective."""
    objective = learner.objective
    images, seeds, labels = learner.prefetcher(batch, objective.img_size)
    return learner.model(images, objective.draw(images, seeds, labels), progress)


def merge_carry(
    parts: list[dict[str, Tensor]], merges: Mapping[str, Merge], accelerator: Accelerator
) -> dict[str, Tensor]:
    """Merge `Output.carry` over micro-batches and processes, in the order of the samples."""
    assert all(part.keys() == merges.keys() for part in parts), "carry is as `merges` declares it"
    merged = {}
    for key, merge in merges.items():
        own = [part[key].detach() for part in parts]
        if merge == "sum":
            merged[key] = accelerator.reduce(torch.stack(own).sum(dim=0), reduction="sum")
        else:
            merged[key] = accelerator.gather(torch.cat(own))
    return merged


def compile_step(model: nn.Module, config: TrainConfig, may_break: bool = False) -> None:
    """Compile `model` in place, unless train.compile is off: one graph with static shapes.

    `may_break`: allow graph breaks, for a model with parts that cannot be compiled.
    """
    if not config.compile:
        return
    mode = config.compile if isinstance(config.compile, str) else "default"
    model.compile(mode=mode, fullgraph=not may_break, dynamic=False)


def begin_step(config: TrainConfig) -> None:
    """Mark the start of an optimizer step: CUDA graphs may reuse the last step's memory."""
    if isinstance(config.compile, str):
        torch.compiler.cudagraph_mark_step_begin()


def attention_kernel(config: TrainConfig) -> AbstractContextManager:
    """Context in which attention uses the kernel that train.attention names."""
    return nullcontext() if config.attention == "auto" else sdpa_kernel(KERNELS[config.attention])


def seed_libraries(words: Words, device: torch.device) -> None:
    """Seed the default generators of Python, NumPy and torch from the first of `words`.

    On the CPU without `torch.manual_seed`, which asks for devices and takes a hundred times longer.
    """
    word = int(words[0])
    random.seed(word)
    np.random.seed(word % 2**32)
    if device.type == "cpu":
        torch.default_generator.manual_seed(word >> 1)
    else:
        torch.manual_seed(word >> 1)
