"""One optimizer step of an objective: for the training loop, the dry run and the benches."""

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
from mae.training.checkpoint.average import Average
from mae.training.fsdp2 import prepare
from mae.training.meter import Meter
from mae.training.optim import build_optimizer, set_lr, take_step
from mae.training.prefetcher import DevicePrefetcher


@dataclass(frozen=True)
class Learner:
    """An objective on its device, and what a step of it needs."""

    config: Config
    objective: Objective
    model: nn.Module
    """the objective as accelerate prepared it"""
    optimizer: AcceleratedOptimizer
    accelerator: Accelerator
    average: Average | None
    """of the weights, where train.ema asks for one"""
    feed: DevicePrefetcher


class Step(NamedTuple):
    """Place of a step in its run."""

    number: int
    """counted from 1"""
    of: int
    """steps of the run"""
    lr: float
    accumulation: int = 1
    """micro-batches of each process"""


def build_learner(config: Config, objective: Objective, accelerator: Accelerator) -> Learner:
    """Move `objective` to its device, compile it, give it an optimizer and its processes."""
    objective.to(accelerator.device)
    objective.set_grad_checkpointing(config.train.grad_checkpointing)
    # FSDP2 gathers weights between the blocks, which no graph can contain.
    compile_step(objective, config.train, may_break=accelerator.is_fsdp2)
    groups = implementation(config.objective).parameter_groups(objective, config)
    optimizer = build_optimizer(groups, config.optim)
    model, optimizer = prepare(objective, optimizer, accelerator)
    average = Average(objective, config.train.ema) if config.train.ema else None
    feed = DevicePrefetcher(accelerator.device)
    return Learner(config, objective, model, optimizer, accelerator, average, feed)


def train_step(
    learner: Learner, batches: Iterable[TrainingBatch], step: Step, meter: Meter | None = None
) -> Tensor:
    """Do one optimizer step on `step.accumulation` micro-batches; the last one's loss.

    A step whose gradient is not finite leaves weights and optimizer as they were.  Nothing waits
    for the device.  `meter` adds up what the objective returns.
    """
    config, accelerator, objective = learner.config, learner.accelerator, learner.objective
    seed, device = config.train.seed, accelerator.device
    set_lr(learner.optimizer, step.lr)
    begin_step(config.train)
    progress = torch.full((), min(1.0, (step.number - 1) / step.of), device=device)
    carried: list[dict[str, Tensor]] = []
    loss = torch.zeros((), device=device)
    for micro, batch in enumerate(batches):
        # After the loader, whose first batch draws a number, too: what chance decides in the
        # model must not depend on where the run was resumed.
        seed_libraries(fold(seed, Stream.STEP, step.number, micro, accelerator.process_index))
        is_synced = micro == step.accumulation - 1
        with contextlib.nullcontext() if is_synced else accelerator.no_sync(learner.model):
            output = forward(learner, batch, progress)
            loss = total_loss(output)
            accelerator.backward(loss / step.accumulation)
        carried.append(output.carry)
        if meter:
            meter.add(output)
    taken = take_step(learner.optimizer, config.optim.clip_grad)
    if meter:
        meter.end_step(step.number, taken.grad_norm)
    carry = merge_carry(carried, objective.merges, accelerator)
    objective.after_step(StepEnd(step.number, seed, taken.skipped, carry))
    if learner.average:
        learner.average.update(step.number)
    return loss.detach()


def forward(learner: Learner, batch: TrainingBatch, progress: Tensor) -> Output:
    """One micro-batch through the objective as accelerate prepared it."""
    objective = learner.objective
    images, seeds, labels = learner.feed(batch, objective.img_size)
    return learner.model(images, objective.draw(images, seeds, labels), progress)


def merge_carry(
    parts: list[dict[str, Tensor]], merges: Mapping[str, Merge], accelerator: Accelerator
) -> dict[str, Tensor]:
    """`Output.carry` of all micro-batches and processes, in the order of the samples."""
    assert all(part.keys() == merges.keys() for part in parts), "carry is as `merges` declares it"
    merged = {}
    for key, merge in merges.items():
        own = [part[key].detach() for part in parts]
        if merge == "sum":
            merged[key] = accelerator.reduce(torch.stack(own).sum(dim=0), reduction="sum")
        else:
            merged[key] = accelerator.gather(torch.cat(own))
    return merged


KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def compile_step(model: nn.Module, config: TrainConfig, may_break: bool = False) -> None:
    """Compile `model` in place where `train.compile` says so: one graph, of these very shapes.

    `may_break`: in several graphs, where something in the model cannot be compiled.
    """
    if not config.compile:
        return
    mode = config.compile if isinstance(config.compile, str) else "default"
    model.compile(mode=mode, fullgraph=not may_break, dynamic=False)


def begin_step(config: TrainConfig) -> None:
    """Before each optimizer step: from here on CUDA graphs may reuse the memory of the last one."""
    if isinstance(config.compile, str):
        torch.compiler.cudagraph_mark_step_begin()


def attention_kernel(config: TrainConfig) -> AbstractContextManager:
    """While it is open, attention is computed by the kernel that `train.attention` names."""
    return nullcontext() if config.attention == "auto" else sdpa_kernel(KERNELS[config.attention])


def seed_libraries(words: Words) -> None:
    """Python's, NumPy's and torch's default generators, from the first of `words`."""
    word = int(words[0])
    random.seed(word)
    np.random.seed(word % 2**32)
    torch.manual_seed(word >> 1)
