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

import torch
from accelerate import Accelerator

from mae.config import Config
from mae.data.loader import Batch, TrainingViews, batches
from mae.data.manifest import Manifest, build_manifest
from mae.errors import RunFailed, SampleError, UserError
from mae.hashing import Stream, fold
from mae.objective import Objective, Output
from mae.panels import Panel, build_panel, draw_panel
from mae.settings import describe_settings, load_config
from mae.training.checkpoint import Position
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import Plan, build_accelerator, make_plan
from mae.training.resume import restore, save
from mae.training.run import Run, build_objective
from mae.training.tracking import Clock, Meter, Tracker, duration


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
        if not (is_first or isinstance(error, SampleError)):
            # The launcher ends all processes with the first that leaves: give the first process,
            # which mostly meets the same error, the time to say it alone.
            time.sleep(10)
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr, flush=True)
        return 2
    except RunFailed as error:
        if is_first:  # what only one process meets, the first one does
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
    start, notes = restore(run, objective, optimizer, manifest, accelerator)
    tracker = Tracker(run, config, accelerator.is_main_process)
    for line in [*notes, *describe(config, plan, manifest, objective, accelerator, start)]:
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
    except OSError as error:
        raise RunFailed(f"{run.folder} cannot be written: {error}") from error
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
    seed, slices = config.train.seed, plan.slices
    if config.train.compile:
        objective.compile()
    model, prepared = accelerator.prepare(objective, optimizer)
    views = TrainingViews(manifest, config.data, seed, objective.img_size, config.model.in_chans)
    positions = slices.micro_batches(start, plan.steps)
    micro_batches = iter(batches(views, positions, config.data.workers))
    meter, clock = Meter(accelerator.device), Clock()
    model.train()
    for done in range(start + 1, plan.steps + 1):
        lr = plan.lr_at(done - 1, config)
        set_lr(optimizer, lr)
        # Dropout, should encoder_kwargs ask for any, is a function of (seed, step, process) too.
        step_seed = fold(seed, Stream.STEP, done, accelerator.process_index)
        torch.manual_seed(int(step_seed[0] >> 1))
        for micro in range(slices.accumulation):
            batch = clock.wait_for(micro_batches)
            is_last = micro == slices.accumulation - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                output = forward(model, objective, batch, accelerator.device)
                accelerator.backward(output.loss / slices.accumulation)
            meter.add(output)
        prepared.step()
        prepared.zero_grad(set_to_none=True)

        is_end = done == plan.steps
        is_saved = done % config.train.checkpoint_every == 0 or is_end
        is_reported = done % config.log.every == 0 or is_saved or done == 1
        if is_reported:
            row = measure(meter, clock, done, lr, plan, accelerator)
            tracker.report(row, progress_line(row, plan.steps, slices.batch_size))
        if is_saved:
            position = Position(done, done * slices.batch_size, manifest.fingerprint)
            is_main, keep_last = accelerator.is_main_process, config.train.keep_last
            save(run, objective, optimizer, position, keep_last, is_main)
        is_drawn = config.log.panel_every and done % config.log.panel_every == 0
        if panel is not None and (is_drawn or is_end):
            draw_panel(panel, objective, run, tracker, done, accelerator.device)
        if is_reported:
            clock.restart()


def forward(
    model: torch.nn.Module, objective: Objective, batch: Batch, device: torch.device
) -> Output:
    """One micro-batch through `model`, the objective as accelerate prepared it."""
    images = batch.images.to(device, non_blocking=True)
    noise = objective.draw(images, batch.seeds.to(device, non_blocking=True))
    return model(images, noise)


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
