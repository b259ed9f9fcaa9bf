"""Pretraining: `accelerate launch -m mae.pretrain CONFIG [section.key=value …]`.

Run the same command again and it goes on where its last checkpoint stands.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from mae.config import Config
from mae.data.device_crop import Crops, resize_crops
from mae.data.loader import Batch
from mae.data.training_data import TrainingData, open_training_data
from mae.errors import ProcessFailed, RunFailed, SampleError, StorageError, UserError, WorkerDied
from mae.hashing import Stream, fold
from mae.objective import Objective, Output
from mae.panels import Panel, build_panel, draw_panel
from mae.settings import describe_settings, load_config
from mae.training.checkpoint import Position
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import Plan, build_accelerator, make_plan
from mae.training.progress import describe, measure, progress_line
from mae.training.quarantine import Quarantine
from mae.training.resume import restore, save
from mae.training.run import Run, build_objective
from mae.training.tracking import Clock, Meter, Tracker


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
        if not (is_first or isinstance(error, SampleError | StorageError)):
            # The launcher ends all processes with the first that leaves: give the first process,
            # which mostly meets the same error, the time to say it alone.
            time.sleep(10)
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr, flush=True)
        return 2
    except RunFailed as error:
        if is_first or isinstance(error, ProcessFailed):
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
        config, data = open_training_data(config, local_share())
    plan = make_plan(
        config, len(data.manifest), accelerator.num_processes, accelerator.process_index
    )
    objective = build_objective(config)
    panel = build_panel(config, objective, data) if accelerator.is_main_process else None
    if accelerator.is_main_process:
        run.open(config)

    objective.to(accelerator.device)
    optimizer = build_optimizer(objective, config.optim)
    start, notes = restore(run, objective, optimizer, data.manifest, accelerator)
    quarantine = Quarantine(run.quarantine_file, data.manifest, config.data.max_bad, accelerator)
    quarantine.check()
    tracker = Tracker(run, config, accelerator.is_main_process)
    for line in [*notes, *describe(config, plan, data, objective, accelerator, start)]:
        tracker.say(line)
    try:
        if start < plan.steps:
            train(
                config,
                plan,
                data,
                objective,
                optimizer,
                start,
                panel,
                run,
                quarantine,
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


def local_share() -> float:
    """The share of all processes that work on this machine."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) / world


def train(
    config: Config,
    plan: Plan,
    data: TrainingData,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    start: int,
    panel: Panel | None,
    run: Run,
    quarantine: Quarantine,
    tracker: Tracker,
    accelerator: Accelerator,
) -> None:
    """The loop, from step `start` to the end of the plan."""
    seed, slices, keep_last = config.train.seed, plan.slices, config.train.keep_last

    def save_here(step: int, by_this_process: bool) -> None:
        position = Position(step, step * slices.batch_size, data.manifest.fingerprint)
        save(run, objective, optimizer, position, keep_last, by_this_process)

    if config.train.compile:
        objective.compile()
    model, prepared = accelerator.prepare(objective, optimizer)
    micro_batches = data.batches(config, slices, objective.img_size, start, plan.steps)
    meter, clock = Meter(accelerator.device), Clock()
    model.train()
    for done in range(start + 1, plan.steps + 1):
        lr = plan.lr_at(done - 1, config)
        set_lr(optimizer, lr)
        # Dropout, should encoder_kwargs ask for any, is a function of (seed, step, process) too.
        step_seed = fold(seed, Stream.STEP, done, accelerator.process_index)
        torch.manual_seed(int(step_seed[0] >> 1))
        for micro in range(slices.accumulation):
            try:
                batch = clock.wait_for(micro_batches)
            except (WorkerDied, UserError) as error:
                # The weights are those of the last step, here as everywhere: no other process,
                # busy with this step, is needed to save them.
                if done - 1 > start:
                    save_here(done - 1, by_this_process=True)
                raise ProcessFailed(f"step {done}: {error}; stands at step {done - 1}") from error
            quarantine.note(batch.bad)
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
            row["bad"] = quarantine.settle(done)
            tracker.report(row, progress_line(row, plan.steps, slices.batch_size))
        is_too_bad = is_reported and quarantine.is_full()
        if is_saved or is_too_bad:
            save_here(done, accelerator.is_main_process)
        if is_too_bad:
            quarantine.check()
        is_drawn = config.log.panel_every and done % config.log.panel_every == 0
        if panel is not None and (is_drawn or is_end):
            draw_panel(panel, objective, run, tracker, done, accelerator.device)
        if is_reported:
            clock.restart()


def forward(
    model: torch.nn.Module, objective: Objective, batch: Batch, device: torch.device
) -> Output:
    """One micro-batch through `model`, the objective as accelerate prepared it."""
    images = batch.images
    if isinstance(images, Crops):
        images = resize_crops(images, objective.img_size, device)
    else:
        images = images.to(device, non_blocking=True)
    noise = objective.draw(images, batch.seeds.to(device, non_blocking=True))
    return model(images, noise)


if __name__ == "__main__":
    sys.exit(main())
