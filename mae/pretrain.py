"""Pretraining: `accelerate launch -m mae.pretrain CONFIG [section.key=value …]`.

Run the same command again and it goes on where its last checkpoint stands.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor

from mae.config import Config, TrainConfig, describe_settings, load_config
from mae.data.loader import CentredViews, Slices, TrainingViews, batches
from mae.data.manifest import Manifest, build_manifest
from mae.errors import SampleError, UserError
from mae.hashing import Stream, fold
from mae.models.mae import MaskedAutoencoder
from mae.objective import Objective
from mae.schedule import lr_at, scaled_lr
from mae.training.checkpoint import (
    Position,
    load_model,
    load_optimizer,
    newest_checkpoint,
    save_checkpoint,
)
from mae.training.optim import build_optimizer, set_lr
from mae.training.run import Run, build_objective
from mae.training.tracking import Clock, Meter, Tracker, duration
from mae.visualize import reconstruction_panel, save_png


class RunFailed(Exception):
    """Training cannot go on (exit code 1)."""


class Plan(NamedTuple):
    """What follows from the settings, the data and the number of processes."""

    slices: Slices
    steps: int
    lr: float


class Panel(NamedTuple):
    """The fixed images that every panel shows, and the seeds of their masks."""

    images: Tensor
    seeds: Tensor
    source: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="mae pretrain",
        description=__doc__,
        epilog="settings (section.key = default):\n\n" + describe_settings().replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file of settings, such as configs/*.yaml")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="override one")
    args = parser.parse_args(argv)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        pretrain(load_config(args.config, args.settings))
    except UserError as error:
        if is_first or isinstance(error, SampleError):
            for line in str(error).splitlines():
                print(f"mae: {line}", file=sys.stderr, flush=True)
        else:
            # The launcher ends all processes with the first that leaves: let the one that
            # explains the error be that one.
            time.sleep(10)
        return 2
    except RunFailed as error:
        if is_first:
            print(f"mae: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        if is_first:
            print("\nmae: interrupted; the same command continues the run", file=sys.stderr)
        return 1
    return 0


def pretrain(config: Config) -> None:
    """Build, restore, train.  Raises UserError before any training where the input is wrong."""
    accelerator = build_accelerator(config.train)
    run = Run(config.output)
    run.check(config)
    with accelerator.main_process_first():  # the first to come writes the index, others read it
        manifest = build_manifest(config.data.train, "data.train", config.data.index_dir)
    plan = make_plan(config, len(manifest), accelerator.num_processes, accelerator.process_index)
    objective = build_objective(config)
    panel = build_panel(config, objective, manifest) if accelerator.is_main_process else None
    if accelerator.is_main_process:
        run.open(config)

    objective.to(accelerator.device)
    optimizer = build_optimizer(objective, config.optim)
    start = restore(run, objective, optimizer, manifest, accelerator)
    tracker = Tracker(run, config, accelerator.is_main_process)
    for line in describe(config, plan, manifest, objective, accelerator, start):
        tracker.say(line)
    try:
        if start < plan.steps:
            train(
                config,
                plan,
                manifest,
                objective,
                optimizer,
                start,
                panel,
                run,
                tracker,
                accelerator,
            )
        tracker.say(f"done: {plan.steps:,} steps; {run.folder} holds the run. Next:")
        tracker.say(f"  mae export {run.folder} {run.folder}/export")
        tracker.say(f"  mae reconstruct {run.folder} IMAGES")
    finally:
        tracker.close()
    accelerator.end_training()


def train(
    config: Config,
    plan: Plan,
    manifest: Manifest,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    start: int,
    panel: Panel | None,
    run: Run,
    tracker: Tracker,
    accelerator: Accelerator,
) -> None:
    """The loop, from step `start` to the end of the plan."""
    if config.train.compile:
        objective.compile()
    model, optimizer = accelerator.prepare(objective, optimizer)
    slices, size, device = plan.slices, len(manifest), accelerator.device
    views = TrainingViews(
        manifest, config.data, config.train.seed, objective.img_size, config.model.in_chans
    )
    micro_batches = iter(
        batches(views, slices.micro_batches(start, plan.steps), config.data.workers)
    )
    meter, clock, images_done = Meter(device), Clock(), 0
    model.train()
    for step in range(start, plan.steps):
        epoch = step * slices.batch_size / size
        lr = lr_at(
            epoch,
            lr=plan.lr,
            min_lr=config.optim.min_lr,
            warmup_epochs=config.optim.warmup_epochs,
            epochs=config.train.epochs,
        )
        set_lr(optimizer, lr)
        # Dropout, should encoder_kwargs ask for any, is a function of (seed, step, process) too.
        torch.manual_seed(
            int(fold(config.train.seed, Stream.STEP, step, accelerator.process_index)[0] >> 1)
        )
        for micro in range(slices.accumulation):
            batch = clock.wait_for(micro_batches)
            images = batch.images.to(device, non_blocking=True)
            noise = objective.draw(images, batch.seeds.to(device, non_blocking=True))
            is_last = micro == slices.accumulation - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                output = model(images, noise)
                accelerator.backward(output.loss / slices.accumulation)
            meter.add(output)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        images_done += slices.batch_size

        done = step + 1
        is_saved = done % config.train.checkpoint_every == 0 or done == plan.steps
        if done % config.log.every == 0 or is_saved or done == 1:
            totals = meter.read(lambda sums: accelerator.reduce(sums, reduction="mean"))
            if not math.isfinite(totals.loss):
                raise RunFailed(f"step {done}: the loss is {totals.loss}; nothing saved since")
            row = {
                "step": done,
                "epoch": done * slices.batch_size / size,
                "samples": done * slices.batch_size,
                "loss": totals.loss,
                "r2": totals.r2,
                "lr": lr,
                "images_per_second": images_done / clock.elapsed,
                "data_wait": clock.waited / clock.elapsed,
            }
            tracker.report(row, progress_line(row, plan.steps, slices.batch_size))
            clock.restart()
            images_done = 0
        if is_saved and accelerator.is_main_process:
            position = Position(done, done * slices.batch_size, manifest.fingerprint)
            save_checkpoint(
                run.checkpoints, objective, optimizer.optimizer, position, config.train.keep_last
            )
        is_drawn = config.log.panel_every and done % config.log.panel_every == 0
        if panel is not None and (is_drawn or done == plan.steps):
            draw_panel(panel, objective, run, tracker, done, device)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Devices and processes as the launcher gave them; UserError where they are not as asked."""
    has_gpu = torch.cuda.is_available()
    has_bf16 = has_gpu and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" and has_gpu and not has_bf16:
        raise UserError("train.precision: this GPU has no bf16; use fp32 or auto")
    use_bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=not has_gpu,
        mixed_precision="bf16" if use_bf16 else "no",
        kwargs_handlers=[ddp],
    )
    accelerator.gradient_accumulation_steps = 1  # the loop accumulates; see `train`
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    for wanted, who in (
        (launched, "the launcher started"),
        (config.num_processes, "train.num_processes asks for"),
    ):
        if wanted and wanted != accelerator.num_processes:
            raise UserError(
                f"{who} {wanted} processes, but {accelerator.num_processes} work together "
                "(on CPUs: accelerate launch --multi_gpu --num_processes N)"
            )
    return accelerator


def make_plan(config: Config, num_samples: int, num_processes: int, process_index: int) -> Plan:
    """Steps, learning rate, and how the global batch is divided; UserError where it cannot be."""
    batch_size = config.train.batch_size
    if batch_size > num_samples:
        raise UserError(
            f"train.batch_size: {batch_size} images a step, but data.train has only {num_samples}"
        )
    if batch_size % num_processes:
        fitting = [n for n in range(1, 4 * num_processes) if batch_size % n == 0]
        raise UserError(
            f"train.batch_size: {batch_size} does not divide among {num_processes} processes; "
            f"it does among {', '.join(map(str, fitting))}"
        )
    share = batch_size // num_processes
    accumulation = next(
        n
        for n in range(1, share + 1)
        if share % n == 0 and share // n <= config.train.max_device_batch
    )
    lr = config.optim.lr
    return Plan(
        Slices(batch_size, num_processes, process_index, accumulation),
        steps=math.ceil(config.train.epochs * num_samples / batch_size),
        lr=scaled_lr(config.optim.blr, batch_size) if lr is None else lr,
    )


def restore(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    manifest: Manifest,
    accelerator: Accelerator,
) -> int:
    """Load the newest intact checkpoint, if there is one; the step to go on from.

    Raises UserError where the data is not that of the checkpoint, or processes see different
    checkpoints (a run folder that is not shared between nodes).
    """
    found = newest_checkpoint(run.checkpoints)
    step = found[1].step if found else 0
    if broadcast_object_list([step])[0] != step:
        raise UserError(f"output: {run.folder} is not the same folder on all nodes")
    if found:
        path, position = found
        if position.data != manifest.fingerprint:
            raise UserError(
                f"data.train: not the samples that {path} was trained on "
                f"(fingerprint {manifest.fingerprint[:16]}, then {position.data[:16]})"
            )
        load_model(path, objective)
        load_optimizer(path, objective, optimizer)
    if accelerator.is_main_process:
        run.rewind_metrics(step)
    return step


def build_panel(config: Config, objective: Objective, manifest: Manifest) -> Panel | None:
    """The panel's images: the first of data.val, or of the training data where there is none."""
    if not isinstance(objective, MaskedAutoencoder):
        return None
    held_out = (
        build_manifest(config.data.val, "data.val", config.data.index_dir)
        if config.data.val
        else None
    )
    source = manifest if held_out is None else held_out
    count = min(config.log.panel_images, len(source))
    views = CentredViews(source, objective.img_size, config.model.in_chans, config.data.crop_pct)
    images = torch.stack([views.view(sample) for sample in range(count)])
    seeds = fold(config.train.seed, Stream.PANEL, torch.arange(count).numpy())
    name = "training images (no data.val)" if held_out is None else "held-out images"
    return Panel(images, torch.from_numpy(seeds.view("int64")), name)


def draw_panel(
    panel: Panel,
    objective: Objective,
    run: Run,
    tracker: Tracker,
    step: int,
    device: torch.device,
) -> None:
    """Write panels/step-….png."""
    assert isinstance(objective, MaskedAutoencoder)
    path = run.panels / f"step-{step:09d}.png"
    images, seeds = panel.images.to(device), panel.seeds.to(device)
    save_png(reconstruction_panel(objective, images, seeds, f"step {step}, {panel.source}"), path)
    tracker.picture("panel", path, step)


def describe(
    config: Config,
    plan: Plan,
    manifest: Manifest,
    objective: Objective,
    accelerator: Accelerator,
    start: int,
) -> list[str]:
    """What is about to happen, in four lines."""
    slices = plan.slices
    millions = sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6
    processes = f"{slices.num_processes} process{'es' * (slices.num_processes > 1)}"
    return [
        f"data    {len(manifest):,} images in {len(manifest.shards)} shards",
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
        f"ETA {duration(remaining)}"
    )


if __name__ == "__main__":
    sys.exit(main())
