"""Dry run: a few seconds of data loading, a few steps of a copy, and the estimates from them."""

import copy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from mae.base.device import loader_count, synchronized_time
from mae.base.errors import UserError
from mae.base.progress import busy, duration
from mae.config.sections import Config
from mae.data.batch import TrainingBatch
from mae.objectives.base import Objective
from mae.training.flops import mfu
from mae.training.optim import num_moments
from mae.training.plan import Plan, TrainingSetup
from mae.training.planned_hours import MISSED_IN_DRY_RUN, missed_plan
from mae.training.safety.monitor import remedies_for_run
from mae.training.step import Learner, Step, build_learner, train_step
from mae.training.tracking.progress_line import describe_run

READ_SECONDS = 5.0
"""seconds of data loading that are timed"""

TIMED_STEPS = 2
"""steps that are timed, after one that is not"""


class LoaderTiming(NamedTuple):
    """Speed of the data loader without training."""

    batch: TrainingBatch
    """the first micro-batch"""
    images_per_second: float
    """speed over all processes"""
    bad: int
    """number of unreadable images met"""


class StepTiming(NamedTuple):
    """Duration, loss and memory of an optimizer step on this process's device."""

    seconds: float
    loss: float
    memory: int | None
    """peak memory in bytes; None where the device does not record it"""


def dry_run(setup: TrainingSetup, objective: Objective, accelerator: Accelerator) -> Iterator[str]:
    """Estimate size, speed, memory and duration of the run; yields the lines of the report.

    What needs no measurement comes first: timing takes minutes where steps are slow, or compiled.
    Nothing is written and `objective`, which is still on the CPU, is not changed.  All processes
    call it.  Raises UserError where the run could not work: its folder, the disk, a sample, the
    device's memory.
    """
    config, plan, _ = setup
    disk = check_disk(config, objective)
    parts = {name: _millions(part) for name, part in objective.named_children() if _millions(part)}
    sizes = ", ".join(f"{name} {millions:.1f} M" for name, millions in parts.items())
    yield from describe_run(setup, objective, accelerator, 0)
    yield (
        f"sizes   {sizes}; {plan.flops_per_image / 1e9:.3g} GFLOP an image; "
        f"{plan.steps * plan.sharding.batch_size:,} samples in all"
    )
    yield disk
    with busy("timing the loader"):
        loading = time_loader(setup, objective, accelerator.device)
    compiled = ", and compiling the model before" if config.train.compile else ""
    with busy(f"timing a step of {plan.sharding.batch_size:,} images{compiled}"):
        step = time_step(config, objective, plan, accelerator, loading.batch)
    speed = plan.sharding.batch_size / step.seconds
    utilisation = mfu(speed, plan.flops_per_image, plan.peak_flops, plan.sharding.num_processes)
    bad = f", {loading.bad} of them bad" if loading.bad else ""
    workers = loader_count(config.data.workers)
    yield (
        f"read    {loading.images_per_second:,.0f} images/s with {workers} "
        f"worker{'s' * (workers != 1)} for each process{bad}"
    )
    yield (
        f"step    {step.seconds:.3g} s = {speed:,.0f} images/s, loss {step.loss:.3f}"
        + (f", MFU {utilisation:.0%}" if utilisation else "")
        + _memory(step, accelerator.device)
    )
    yield from _duration(config, plan, loading, step, accelerator.device)


def checkpoint_bytes(objective: Objective, moments: int = 2, has_average: bool = False) -> int:
    """Bytes of a checkpoint: weights, and moments and moving average of trained parameters."""
    weights = sum(t.numel() * t.element_size() for t in objective.state_dict().values())
    trained = (p for p in objective.parameters() if p.requires_grad)
    copies = moments + has_average
    return weights + copies * sum(p.numel() * p.element_size() for p in trained)


def check_disk(config: Config, objective: Objective) -> str:
    """Report the disk space for checkpoints; UserError where the disk is too small.

    Space for train.keep_last + 1 is needed: the oldest is deleted once the newest is complete.
    """
    one = checkpoint_bytes(objective, num_moments(config.optim), config.train.ema > 0)
    folder = Path(config.output).resolve()
    there = sum(path.stat().st_size for path in folder.glob("checkpoints/step-*/*"))
    needed = one * (config.train.keep_last + 1)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed - there > free:
        raise UserError(
            f"output: {config.output} needs {needed / 1e9:.3g} GB for checkpoints "
            f"(train.keep_last = {config.train.keep_last}, and one being written), but its disk "
            f"has {free / 1e9:.3g} GB free"
        )
    return f"disk    {one / 1e9:.3g} GB a checkpoint, {needed / 1e9:.3g} GB at most; " + (
        f"{free / 1e9:.3g} GB free"
    )


def time_loader(setup: TrainingSetup, objective: Objective, device: torch.device) -> LoaderTiming:
    """Time the loader for READ_SECONDS after the first batch; raises as the loader does."""
    config, plan, data = setup
    micro_batches = data.batches(
        config, plan.sharding, objective.img_size, 0, plan.steps, device=device
    )
    began = time.perf_counter()
    try:
        first = next(micro_batches)
        bad = len(first.bad)
        first_took, began = time.perf_counter() - began, time.perf_counter()
        count = 0
        for batch in micro_batches:
            count, bad = count + 1, bad + len(batch.bad)
            if time.perf_counter() - began > READ_SECONDS:
                break
        # The first batch's time includes the start of the workers: used only if it is the only one.
        seconds = (time.perf_counter() - began) / count if count else first_took
    finally:
        micro_batches.close()  # ends the workers
    return LoaderTiming(
        first, plan.sharding.device_batch * plan.sharding.num_processes / seconds, bad
    )


def time_step(
    config: Config,
    objective: Objective,
    plan: Plan,
    accelerator: Accelerator,
    batch: TrainingBatch,
) -> StepTiming:
    """Time steps of a copy of `objective`; UserError where the device runs out of memory."""
    device, sharding = accelerator.device, plan.sharding
    has_counter = device.type == "cuda"
    try:
        learner = build_learner(config, copy.deepcopy(objective), accelerator)
        learner.model.train()
        if has_counter:
            torch.cuda.reset_peak_memory_stats(device)
        loss = train_step(learner, [batch], Step(1, plan.steps, plan.lr))
        # Extrapolated linearly beyond two micro-batches.
        counts = range(1, min(sharding.accumulation, 2) + 1)
        times = [_seconds(learner, batch, plan, count) for count in counts]
        seconds = times[-1] + max(0.0, times[-1] - times[0]) * (sharding.accumulation - counts[-1])
        memory = torch.cuda.max_memory_allocated(device) if has_counter else None
        return StepTiming(seconds, float(loss), memory)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        remedy = (
            f"lower train.max_device_batch to {sharding.device_batch // 2} or less (the result "
            "stays the same, by gradient accumulation)"
            if sharding.device_batch > 1
            else "not even one image fits: choose a smaller model or data.img_size"
        )
        raise UserError(
            f"train.max_device_batch: {sharding.device_batch} images at once do not fit into the "
            f"memory of {device}: {remedy}"
        ) from None
    finally:
        accelerator.free_memory()


def _seconds(learner: Learner, batch: TrainingBatch, plan: Plan, accumulation: int) -> float:
    """Mean duration of a step with `accumulation` micro-batches."""
    device = learner.accelerator.device
    began = synchronized_time(device)
    for number in range(2, TIMED_STEPS + 2):
        step = Step(number, plan.steps, plan.lr, accumulation)
        train_step(learner, [batch] * accumulation, step)
    return (synchronized_time(device) - began) / TIMED_STEPS


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _millions(part: torch.nn.Module) -> float:
    return sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6


def _memory(step: StepTiming, device: torch.device) -> str:
    if step.memory is None:
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    return f", {step.memory / 1e9:.1f} of {total / 1e9:.1f} GB"


def _duration(
    config: Config, plan: Plan, loading: LoaderTiming, step: StepTiming, device: torch.device
) -> Iterator[str]:
    """Estimate the duration of the run: loading overlaps with steps only if there are workers.

    A second line names a plan of `mae pretrain auto` that it misses.
    """
    data_seconds = plan.sharding.batch_size / loading.images_per_second
    overlaps = config.data.workers != 0
    one = max(data_seconds, step.seconds) if overlaps else data_seconds + step.seconds
    if data_seconds > step.seconds:
        why = (
            f"data loading is the bottleneck (what would help: {remedies_for_run(config, device)})"
        )
    else:
        why = "the step is the bottleneck"
    share = min(data_seconds, step.seconds) / max(data_seconds, step.seconds)
    yield f"time    about {duration(one * plan.steps)}: {why}; the other takes {share:.0%} of it"
    is_new = not (Path(config.output) / "config.yaml").exists()
    seconds = one * plan.steps
    if line := missed_plan(config, seconds, MISSED_IN_DRY_RUN, plan.steps, is_new=is_new):
        yield f"warning: {line}"
