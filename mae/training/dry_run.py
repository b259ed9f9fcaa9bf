"""A run tried out: a few seconds of its data, one step of its model, and what follows from them."""

import copy
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from mae.base.errors import UserError
from mae.base.progress import duration
from mae.config.sections import Config
from mae.data.batch import TrainingBatch
from mae.objectives.base import Objective
from mae.training.flops import mfu
from mae.training.optim import num_moments
from mae.training.plan import Plan, TrainingSetup
from mae.training.safety.monitor import remedies_for_run
from mae.training.step import Learner, Step, build_learner, train_step
from mae.training.tracking.progress import describe_run

READ_SECONDS = 5.0
TIMED_STEPS = 2


class LoaderTiming(NamedTuple):
    """What the loader did by itself."""

    batch: TrainingBatch
    """the first one"""
    images_per_second: float
    """of all processes"""
    bad: int


class StepTiming(NamedTuple):
    """One optimizer step on this process's device."""

    seconds: float
    loss: float
    memory: int | None
    """bytes at most, where the device counts them"""


def dry_run(setup: TrainingSetup, objective: Objective, accelerator: Accelerator) -> list[str]:
    """What the run would be like, line by line; nothing is written and `objective` stays as it is.

    All processes call it; `objective` is still on the CPU.  Raises UserError where the run could
    not go: its folder, the disk, a sample, the device's memory.
    """
    config, plan, _ = setup
    disk = check_disk(config, objective)
    reading = time_loader(setup, objective, accelerator.device)
    step = time_step(config, objective, plan, accelerator, reading.batch)
    speed = plan.sharding.batch_size / step.seconds
    used = mfu(speed, plan.flops_per_image, plan.peak_flops, plan.sharding.num_processes)
    parts = {name: _millions(part) for name, part in objective.named_children() if _millions(part)}
    sizes = ", ".join(f"{name} {millions:.1f} M" for name, millions in parts.items())
    bad = f", {reading.bad} of them bad" if reading.bad else ""
    return [
        *describe_run(setup, objective, accelerator, 0),
        f"sizes   {sizes}; {plan.flops_per_image / 1e9:.3g} GFLOP an image; "
        f"{plan.steps * plan.sharding.batch_size:,} samples in all",
        disk,
        f"read    {reading.images_per_second:,.0f} images/s with {config.data.workers} workers "
        f"for each process{bad}",
        f"step    {step.seconds:.3g} s = {speed:,.0f} images/s, loss {step.loss:.3f}"
        + (f", MFU {used:.0%}" if used else "")
        + _memory(step, accelerator.device),
        _time(config, plan, reading, step, accelerator.device),
    ]


def checkpoint_bytes(objective: Objective, moments: int = 2, has_average: bool = False) -> int:
    """Weights, and of those that are trained the optimizer's moments and the moving average."""
    weights = sum(t.numel() * t.element_size() for t in objective.state_dict().values())
    trained = (p for p in objective.parameters() if p.requires_grad)
    copies = moments + has_average
    return weights + copies * sum(p.numel() * p.element_size() for p in trained)


def check_disk(config: Config, objective: Objective) -> str:
    """The line on checkpoints; UserError where the disk has no room for them.

    One more than train.keep_last: the oldest goes once the newest is whole.
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
    """The first batches, for READ_SECONDS after the first; raises as the loader does."""
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
        # The first one's time is that of starting workers, too: it counts where it is all there is.
        seconds = (time.perf_counter() - began) / count if count else first_took
    finally:
        micro_batches.close()  # and its workers with it
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
    """Steps of a copy of `objective`, the first of them untimed; UserError out of memory."""
    device, sharding = accelerator.device, plan.sharding
    has_counter = device.type == "cuda"
    try:
        learner = build_learner(config, copy.deepcopy(objective), accelerator)
        learner.model.train()
        if has_counter:
            torch.cuda.reset_peak_memory_stats(device)
        loss = train_step(learner, [batch], Step(1, plan.steps, plan.lr))
        # More than two micro-batches take the same for each.
        counts = range(1, min(sharding.accumulation, 2) + 1)
        times = [_seconds(learner, batch, plan, count) for count in counts]
        seconds = times[-1] + max(0.0, times[-1] - times[0]) * (sharding.accumulation - counts[-1])
        memory = torch.cuda.max_memory_allocated(device) if has_counter else None
        return StepTiming(seconds, float(loss), memory)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        what = (
            f"lower train.max_device_batch to {sharding.device_batch // 2} or less (the same run: "
            "what is missing is accumulated)"
            if sharding.device_batch > 1
            else "not even one image fits: choose a smaller model or data.img_size"
        )
        raise UserError(
            f"train.max_device_batch: {sharding.device_batch} images at once do not fit into the "
            f"memory of {device}: {what}"
        ) from None
    finally:
        accelerator.free_memory()


def _seconds(learner: Learner, batch: TrainingBatch, plan: Plan, accumulation: int) -> float:
    """Duration of a step with so many micro-batches."""
    device = learner.accelerator.device
    began = _now(device)
    for number in range(2, TIMED_STEPS + 2):
        step = Step(number, plan.steps, plan.lr, accumulation)
        train_step(learner, [batch] * accumulation, step)
    return (_now(device) - began) / TIMED_STEPS


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _millions(part: torch.nn.Module) -> float:
    return sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6


def _memory(step: StepTiming, device: torch.device) -> str:
    if step.memory is None:
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    return f", {step.memory / 1e9:.1f} of {total / 1e9:.1f} GB"


def _time(
    config: Config, plan: Plan, reading: LoaderTiming, step: StepTiming, device: torch.device
) -> str:
    """Reading goes on beside the steps where there are workers, and between them where not."""
    data_seconds = plan.sharding.batch_size / reading.images_per_second
    beside = config.data.workers > 0
    one = max(data_seconds, step.seconds) if beside else data_seconds + step.seconds
    if data_seconds > step.seconds:
        why = f"the data decides (what would help: {remedies_for_run(config, device)})"
    else:
        why = "the step decides"
    share = min(data_seconds, step.seconds) / max(data_seconds, step.seconds)
    return f"time    about {duration(one * plan.steps)}: {why}; the other takes {share:.0%} of it"
