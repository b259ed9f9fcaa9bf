"""Run: build from settings, resume from the newest checkpoint, train to the end."""

import errno
import os
import sys
from datetime import timedelta
from itertools import chain
from pathlib import Path

from accelerate import Accelerator, PartialState

from mae.base.device import keep_freed_memory, local_processes
from mae.base.errors import RunFailed
from mae.base.progress import ProgressLine, busy
from mae.config.sections import Config
from mae.data.joined_manifests import merge
from mae.data.opening import training_manifests
from mae.data.training_data import TrainingSource, open_training_data
from mae.decoding.on_device import JpegDecoder
from mae.objectives.base import Objective
from mae.objectives.registry import declaration
from mae.pretrained_weights.start import start_from_weights
from mae.training.checkpoint.checkpoint_files import TrainingState
from mae.training.checkpoint.resume import resume
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from mae.training.checkpoint.trained import build_objective, with_kept_stage
from mae.training.dry_run import dry_run
from mae.training.evaluator import (
    EvaluationImages,
    Evaluator,
    open_evaluation_images,
    open_held_out,
)
from mae.training.flops import flops_per_image, peak_flops
from mae.training.fsdp2 import refuse_unshardable
from mae.training.loop import Trainer
from mae.training.plan import (
    Plan,
    TrainingSetup,
    build_accelerator,
    make_plan,
)
from mae.training.safety.findings import cautions
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.safety.monitor import Monitor
from mae.training.safety.step_flags import StepFlagReducer
from mae.training.shared_manifest import shared_manifests
from mae.training.start_record import (
    check_labels_of_run,
    open_folder,
    record_start,
    refuse_shorter_run,
)
from mae.training.step import Learner, attention_kernel, build_learner
from mae.training.tracking.progress_line import describe_run
from mae.training.tracking.tracker import Tracker, require_trackers

WRITE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""errors of a full or failing disk, whose exceptions may not name the file"""


def train(
    config: Config,
    lifecycle: RunLifecycle,
    is_dry: bool = False,
    source: TrainingSource | None = None,
    use_cpu: bool = False,
) -> Objective:
    """Train the run that `config` describes, resuming from its newest checkpoint, if any.

    `source`: samples other than those of data.train, such as cached features.  `is_dry`: only
    check the input, do a dry run and print its report; no run folder is created.  `use_cpu`:
    ignore GPUs.

    Returns the trained objective.  The process group stays open for another run; end it with
    `destroy_process_group`.  Raises UserError before any training where the input is wrong, and
    RunFailed or Stopped during training.
    """
    run = lifecycle.run = Run(config.output)
    refuse_unshardable(declaration(config.objective))
    accelerator = build_accelerator(config.train, use_cpu)
    is_main = accelerator.is_main_process
    keep_freed_memory(accelerator.device)
    lifecycle.run_cleanup.enter_context(attention_kernel(config.train))
    config = run.with_recorded_trackers(config)
    notes = run.check(config)
    setup = build_setup(config, accelerator, source)
    config = setup.config
    refuse_shorter_run(run, setup)
    notes += [f"warning: {line}" for line in setup.data.manifest.warnings()]
    notes += [f"warning: {one.text}. {one.reason}" for one in cautions(setup)]
    is_new = run.newest_step() is None
    with busy("building the model"):
        objective = build_objective(with_kept_stage(config, run.folder, is_new=is_new))
        initial = start_from_weights(config, objective, run, accelerator)
    notes += initial.lines if initial else []
    notes += objective.first_stage.lines if objective.first_stage else []
    if declaration(config.objective).needs_labels:
        check_labels_of_run(run, setup.data.manifest)
    if source is None:  # samples of other sources need not be images
        with busy("counting the model's operations"):
            setup = setup._replace(plan=add_flops(setup, objective, accelerator))
    if is_dry:
        print_dry_run(setup, objective, accelerator, notes)
        return objective
    # All processes take part in drawing if the weights are sharded.
    with busy("opening the held-out images"):
        evaluated = open_evaluation_images(
            config, objective, setup.data, is_main or accelerator.is_fsdp2
        )
    notes += evaluated.notes
    if is_main:
        notes += open_folder(run, setup, objective, evaluated, initial)
    run.is_open = True
    with busy("loading the newest checkpoint" if not is_new else "building the optimizer"):
        learner = build_learner(config, objective, accelerator)
        state, resumed = resume(
            run,
            objective,
            learner.optimizer,
            setup.data.manifest,
            accelerator,
            average=learner.average,
        )
    notes += resumed
    tracker = Tracker(run, config, is_main, state.step)
    lifecycle.run_cleanup.callback(tracker.close)
    if is_main:
        record_start(run, setup, state.step, notes, evaluated)
    for line in [*notes, *describe_run(setup, objective, accelerator, state.step)]:
        tracker.print_line(line)
    run_to_end(build_trainer(setup, learner, run, evaluated, tracker, lifecycle), state)
    return objective


def print_dry_run(
    setup: TrainingSetup, objective: Objective, accelerator: Accelerator, notes: list[str]
) -> None:
    """Do a dry run and print its report after `notes`, on the main process.  All call it."""
    held_out = open_held_out(setup.config, setup.data.manifest)
    lines = chain(notes, held_out.notes, dry_run(setup, objective, accelerator))
    for line in lines:  # all processes measure
        if accelerator.is_main_process:
            print(line, flush=True)


def build_trainer(
    setup: TrainingSetup,
    learner: Learner,
    run: Run,
    evaluated: EvaluationImages,
    tracker: Tracker,
    lifecycle: RunLifecycle,
) -> Trainer:
    """Trainer of `learner` with its monitor, saver and evaluator."""
    settings, accelerator = setup.config.train, learner.accelerator
    monitor = Monitor(setup, run, tracker, accelerator)
    trainer = Trainer(
        setup=setup,
        learner=learner,
        run=run,
        saver=Saver(run.checkpoints, settings.keep_last, settings.keep_every, accelerator),
        monitor=monitor,
        evaluator=Evaluator(setup, learner, evaluated, run, tracker, monitor.findings),
        flag_reducer=StepFlagReducer(timedelta(minutes=settings.timeout_minutes)),
        stop=lifecycle.stop,
        end_process=lifecycle.end_process,
    )
    lifecycle.run_cleanup.callback(trainer.watch.close)
    lifecycle.run_cleanup.callback(trainer.saver.close)
    return trainer


def destroy_process_group() -> None:
    """End the process group, after success.  All processes call it."""
    PartialState().destroy_process_group()


def build_setup(
    config: Config, accelerator: Accelerator, source: TrainingSource | None = None
) -> TrainingSetup:
    """Open the training data, complete the settings with it, and make the plan.

    Raises UserError or StorageError where data or settings do not fit.
    """
    require_trackers(config.log)
    num_processes, process_index = accelerator.num_processes, accelerator.process_index
    if source is not None:
        config = declaration(config.objective).complete(config, source.manifest)
        plan = make_plan(config, len(source.manifest), num_processes, process_index)
        return TrainingSetup(plan.intervals.recorded_in(config), plan, source)
    if config.data.decode_on_device:
        JpegDecoder(accelerator.device, config.data.in_chans)  # errors now, not later
    with ProgressLine("indexing", "shards") as progress:
        manifest = merge(
            shared_manifests(
                accelerator,
                lambda: training_manifests(config.data, progress),
                config.data.index_dir,
            )
        )
    with accelerator.main_process_first():  # the main process measures statistics for all
        config, data = open_training_data(
            config, manifest, local_processes() / accelerator.num_processes
        )
    plan = make_plan(config, len(data.manifest), num_processes, process_index)
    return TrainingSetup(plan.intervals.recorded_in(config), plan, data)


def add_flops(setup: TrainingSetup, objective: Objective, accelerator: Accelerator) -> Plan:
    """Complete the plan with the operations per image and the device's peak."""
    return setup.plan._replace(
        flops_per_image=flops_per_image(objective, setup.config.data.in_chans),
        peak_flops=peak_flops(accelerator.device, accelerator.mixed_precision),
    )


def run_to_end(trainer: Trainer, state: TrainingState) -> None:
    """Train to the end and print the next commands.

    Raises RunFailed where the run folder cannot be written any more.
    """
    folder, print_line = trainer.run.folder, trainer.monitor.tracker.print_line
    try:
        trainer.fit(state)
        skipped = refuse_untrained(trainer)
        for finding in trainer.monitor.findings.lasting(trainer.plan.steps):
            print_line(f"still    {finding.text}: see mae report {folder}")
        commands = declaration(trainer.config.objective).next_steps(folder)
        next_steps = " Next:" if commands else ""
        print_line(
            f"done: {trainer.plan.steps:,} steps{skipped}; {folder} holds the run.{next_steps}"
        )
        for command in commands:
            print_line(f"  {command}")
    except OSError as error:
        if not is_write_error(error, folder):
            raise
        raise RunFailed(f"{folder} cannot be written: {error}") from error
    finally:
        trainer.monitor.tracker.end_line()
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            trainer.saver.close()


def refuse_untrained(trainer: Trainer) -> str:
    """Words on the skipped steps of a finished run; RunFailed where they are half or more."""
    skipped, steps = trainer.monitor.guard.skipped, trainer.plan.steps
    if 2 * skipped >= steps:
        raise RunFailed(
            f"{trainer.run.folder}: {skipped:,} of {steps:,} steps were skipped, their gradients "
            "not finite: the weights are hardly trained; lower the learning rate, or inspect the "
            "data (mae inspect-batch), and start a new run"
        )
    return f", {skipped:,} of them skipped (gradients not finite)" * bool(skipped)


def is_write_error(error: OSError, folder: Path) -> bool:
    """True where `error` concerns a file in `folder`, or a full or failing disk."""
    if error.filename is None:
        return error.errno in WRITE_ERRNOS
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)
