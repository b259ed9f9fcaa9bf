"""What a run says of itself: what is about to happen, and how it stands."""

import math

from accelerate import Accelerator

from mae.config import Config
from mae.data.training_data import TrainingData
from mae.errors import RunFailed
from mae.objective import Objective
from mae.training.plan import Plan
from mae.training.tracking import Clock, Meter, duration


def measure(
    meter: Meter, clock: Clock, done: int, lr: float, plan: Plan, accelerator: Accelerator
) -> dict[str, float]:
    """A row of metrics after `done` steps; RunFailed where the loss is not finite.

    All processes call it and get the same loss, so all of them stop, or none.
    """
    totals = meter.read(lambda sums: accelerator.reduce(sums, reduction="mean"))
    if not math.isfinite(totals.loss):
        raise RunFailed(
            f"step {done}: the loss is {totals.loss}; nothing was saved.  Going on would end here "
            "again: lower the learning rate, or look at the data"
        )
    images = totals.micro_batches * plan.slices.device_batch * plan.slices.num_processes
    return {
        "step": done,
        "epoch": plan.epoch(done),
        "samples": done * plan.slices.batch_size,
        "loss": totals.loss,
        "r2": totals.r2,
        "lr": lr,
        "images_per_second": images / clock.elapsed,
        "data_wait": clock.waited / clock.elapsed,
    }


def describe(
    config: Config,
    plan: Plan,
    data: TrainingData,
    objective: Objective,
    accelerator: Accelerator,
    start: int,
) -> list[str]:
    """What is about to happen, in four lines."""
    slices = plan.slices
    order = "" if config.data.order == "global" else f", read in order `{config.data.order}`"
    millions = sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6
    processes = f"{slices.num_processes} process{'es' * (slices.num_processes > 1)}"
    return [
        f"data    {len(data.manifest):,} images in {len(data.manifest.shards)} shards{order}",
        f"model   {config.model.encoder}, {millions:.1f} M parameters with the decoder",
        f"batch   {slices.batch_size} = {processes} x {slices.accumulation} accumulated "
        f"x {slices.device_batch} images on {accelerator.device.type}, "
        f"{'bf16' if accelerator.mixed_precision == 'bf16' else 'fp32'}",
        f"run     {config.train.epochs:g} epochs = {plan.steps:,} steps, lr {plan.lr:.3g}, "
        f"{config.output}" + (f", resumed at step {start:,}" if start else ""),
    ]


def progress_line(row: dict[str, float], steps: int, batch_size: int) -> str:
    """One line of the state of things."""
    remaining = (steps - row["step"]) * batch_size / row["images_per_second"]
    return (
        f"step {row['step']:>{len(str(steps))}}/{steps}  epoch {row['epoch']:.1f}  "
        f"loss {row['loss']:.4f}  R² {row['r2']:.3f}  lr {row['lr']:.2e}  "
        f"{row['images_per_second']:,.0f} images/s  data wait {row['data_wait']:.0%}  "
        f"ETA {duration(remaining)}" + (f"  bad {row['bad']:,.0f}" if row["bad"] else "")
    )
