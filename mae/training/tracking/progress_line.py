"""Lines that a run prints and its rows of metrics: description, progress."""

import math

import torch
from accelerate import Accelerator

from mae.base.progress import duration
from mae.objectives.base import Objective
from mae.objectives.declaration import Declaration
from mae.objectives.registry import declaration
from mae.training.flops import mfu
from mae.training.meter import IntervalTotals
from mae.training.plan import Plan, TrainingSetup
from mae.training.tracking.tracker import Clock


def metrics_row(
    totals: IntervalTotals,
    declared: Declaration,
    clock: Clock,
    done: int,
    lr: float,
    plan: Plan,
    device: torch.device,
) -> dict[str, float]:
    """Build the row of metrics.jsonl after `done` steps, over the steps since the last row."""
    images = len(totals.steps) * plan.sharding.batch_size
    norms = [one.grad_norm for one in totals.steps if not one.skipped]
    parts = {f"loss_{name}": value for name, value in totals.losses.items()}
    row = {
        "step": done,
        "epoch": plan.epoch(done),
        "samples": done * plan.sharding.batch_size,
        "loss": totals.loss,
        **(parts if len(parts) > 1 else {}),
        **declared.figures(totals.losses, totals.statistics),
        "lr": lr,
        "grad_norm": sum(norms) / len(norms) if norms else math.nan,
        "images_per_second": images / clock.elapsed,
        "data_wait": clock.waited / clock.elapsed,
    }
    devices = plan.sharding.num_processes
    used = mfu(row["images_per_second"], plan.flops_per_image, plan.peak_flops, devices)
    if used is not None:
        row["mfu"] = used
    if device.type == "cuda":
        row["memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return row


def describe_run(
    setup: TrainingSetup, objective: Objective, accelerator: Accelerator, start: int
) -> list[str]:
    """Describe data, model, batch and schedule of a run, in four lines."""
    config, plan, data = setup
    sharding = plan.sharding
    order = "" if config.data.order == "global" else f", read in order `{config.data.order}`"
    millions = sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6
    declared = declaration(config.objective)
    processes = f"{sharding.num_processes} process{'es' * (sharding.num_processes > 1)}"
    return [
        f"data    {len(data.manifest):,} images in {len(data.manifest.shards)} shards{order}",
        f"model   {declared.describe(config, f'{millions:.1f} M parameters')}",
        f"batch   {sharding.batch_size} = {processes} x {sharding.accumulation} accumulated "
        f"x {sharding.device_batch} images on {accelerator.device.type}, "
        f"{'bf16' if accelerator.mixed_precision == 'bf16' else 'fp32'}"
        + ", weights sharded (FSDP2)"
        * accelerator.is_fsdp2,
        f"run     {config.train.epochs:g} epochs = {plan.steps:,} steps, lr {plan.lr:.3g}, "
        f"{config.output}" + (f", resumed at step {start:,}" if start else ""),
    ]


def progress_line(row: dict[str, float], steps: int, batch_size: int, declared: Declaration) -> str:
    """Format a row of metrics as the progress line."""
    remaining = (steps - row["step"]) * batch_size / row["images_per_second"]
    parts = [
        f"step {row['step']:>{len(str(steps))}}/{steps}",
        f"epoch {row['epoch']:.1f}",
        f"loss {row['loss']:.4f}",
        *(
            f"{metric.label} {row[metric.key]:{metric.format}}"
            for metric in declared.metrics
            if metric.on_progress_line and metric.key in row
        ),
        f"lr {row['lr']:.2e}",
        f"{row['images_per_second']:,.0f} images/s",
        f"data wait {row['data_wait']:.0%}",
        f"MFU {row['mfu']:.0%}" if "mfu" in row else "",
        f"{row['memory_gb']:.1f} GB" if "memory_gb" in row else "",
        f"ETA {duration(remaining)}",
        f"bad {row['bad']:,.0f}" if row["bad"] else "",
        f"skipped {row['skipped']:,.0f}" if row["skipped"] else "",
    ]
    return "  ".join(filter(None, parts))
