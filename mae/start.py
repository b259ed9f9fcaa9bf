"""A run from its settings to its exit code, whatever its objective."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator

from mae.allocator import keep_freed_memory
from mae.config import Config
from mae.data.images import Images
from mae.data.training_data import TrainingData, open_training_data
from mae.decoding.on_device import JpegDecoder
from mae.errors import (
    ProcessFailed,
    ProcessStopped,
    RunFailed,
    SampleError,
    Stopped,
    StorageError,
    UserError,
)
from mae.exits import (
    DONE,
    FAILED,
    STOPPED,
    WRONG_USE,
    Word,
    append_event,
    forget_exit,
    record_exit,
)
from mae.initial.initialize import start_from_weights
from mae.loop import Job, train_to_the_end
from mae.objective import Objective
from mae.panels import Panel, build_panel
from mae.results import write_json
from mae.training.advice import Advice, ways_of_run
from mae.training.checkpoint import Position, checkpoints, step_of
from mae.training.compiling import attention_kernel, compile_step
from mae.training.control import Control
from mae.training.dry_run import dry_run
from mae.training.environment import describe_start
from mae.training.flops import flops_per_image, peak_flops
from mae.training.guard import Guard
from mae.training.optim import build_optimizer
from mae.training.plan import Plan, build_accelerator, local_processes, make_plan
from mae.training.progress import Indexing, describe
from mae.training.quarantine import Quarantine
from mae.training.resume import resume
from mae.training.run import Run, build_objective
from mae.training.saver import Saver
from mae.training.sharding import prepare
from mae.training.signals import StopSignals
from mae.training.tensorboard_tracker import refuse_missing
from mae.training.tracking import Tracker
from mae.watching import Watcher, open_held_out

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""errors of writing, which do not say to which file"""


def start(load: Callable[[], Config], is_dry: bool = False) -> int:
    """Carry out the run that `load` describes, or with `is_dry` only try it out.

    Returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early.
    """
    with contextlib.ExitStack() as last:
        return _start(load, is_dry, last)


def _start(load: Callable[[], Config], is_dry: bool, last: contextlib.ExitStack) -> int:
    stop, run, is_ours = StopSignals(), None, False
    last.callback(stop.restore)  # after all else: a launcher's signal must not kill what is done
    try:
        config = load()
        run = Run(config.output)
        carry_out(config, run, stop, last, is_dry)
        code, reason = DONE, "done"
    except UserError as error:
        code, reason = WRONG_USE, str(error)
        is_ours = isinstance(error, SampleError | StorageError)
    except RunFailed as error:
        code, reason, is_ours = FAILED, str(error), isinstance(error, ProcessFailed)
    except Stopped as error:
        code, reason = STOPPED, f"{error}; the same command continues the run"
        is_ours = isinstance(error, ProcessStopped)
    except KeyboardInterrupt:
        code, reason = FAILED, "interrupted; the same command continues the run"
        leave(code, reason, run, is_ours, stop)
        os._exit(code)  # at once: not after what is being written, and what a tracker still sends
    stop.in_loop = True  # nothing is left to be stopped
    leave(code, reason, run, is_ours, stop)
    return code


def leave(code: int, reason: str, run: Run | None, is_ours: bool, stop: StopSignals) -> None:
    """Last words, once for all processes; `is_ours`: what this process met alone."""
    is_first = os.environ.get("RANK", "0") == "0"
    if code == WRONG_USE and not (is_first or is_ours):
        # The launcher ends all processes with the first that leaves: give the first process,
        # which mostly meets the same error, the time to say it alone.
        until = time.monotonic() + 10
        while not stop.requested and time.monotonic() < until:
            time.sleep(0.1)
        is_ours = not stop.requested
    if not (is_first or is_ours):
        return
    if code != DONE:
        for line in reason.splitlines():
            print(f"mae: {line}", file=sys.stderr, flush=True)
    folder = run.folder if run is not None and run.is_open else None
    step = max(map(step_of, checkpoints(run.checkpoints)), default=None) if run else None
    record_exit(folder, Word(code, step, reason))
    if folder:
        append_event(folder, step, "done" if code == DONE else "stop", reason)


def carry_out(
    config: Config,
    run: Run,
    stop: StopSignals,
    last: contextlib.ExitStack,
    is_dry: bool = False,
) -> None:
    """Build, resume, train.  Raises UserError before any training where the input is wrong.

    `last` takes what may wait for a server, and so comes after the last words.  `is_dry`: only
    checks, one step on copies, and what a run would be; makes no run.
    """
    accelerator = build_accelerator(config.train)
    keep_freed_memory(accelerator.device)
    last.enter_context(attention_kernel(config.train))
    is_main = accelerator.is_main_process
    refuse_missing(config.log)
    if config.data.decode_on_device:
        JpegDecoder(accelerator.device, config.model.in_chans)  # refuses now, not in the run
    notes = run.check(config)
    with accelerator.main_process_first():  # the first to come writes the index, others read it
        told = [Indexing()] if is_main else []
        config, data = open_training_data(
            config, local_processes() / accelerator.num_processes, *told
        )
    num_processes, process_index = accelerator.num_processes, accelerator.process_index
    plan = make_plan(config, len(data.manifest), num_processes, process_index)
    objective = build_objective(config)
    initial = start_from_weights(config.init, config.data, objective, run, accelerator)
    notes += initial.lines if initial else []
    plan = plan._replace(
        flops_per_image=flops_per_image(objective, config.model.in_chans),
        peak_flops=peak_flops(accelerator.device, accelerator.mixed_precision),
    )
    held_out = open_held_out(config)
    if is_dry:
        lines = [*notes, *dry_run(config, data, objective, plan, accelerator)]
        print("\n".join(lines) if is_main else "", end="\n" if is_main else "")
        return
    # All processes draw what is sharded.
    draws = is_main or accelerator.is_fsdp2
    looks_at = build_panel(config, objective, data) if draws else None, held_out
    if is_main:
        run.open(config)
        if initial:
            write_json(run.folder / "init.json", initial.record)
        forget_exit(run.folder)
    run.is_open = True
    job, position, resumed = build_job(
        config, plan, data, objective, looks_at, run, stop, last, accelerator
    )
    if is_main:
        start = {"event": "resume" if position.step else "start", "step": position.step}
        run.write_start({**start, **describe_start(), "data": data.manifest.fingerprint})
        append_event(run.folder, position.step, start["event"], ", ".join([*notes, *resumed]))
    about = describe(config, plan, data, objective, accelerator, position.step)
    for line in [*notes, *resumed, *about]:
        job.tracker.say(line)
    see_through(job, position)
    accelerator.end_training()


def build_job(
    config: Config,
    plan: Plan,
    data: TrainingData,
    objective: Objective,
    looks_at: tuple[Panel | None, Images | None],
    run: Run,
    stop: StopSignals,
    last: contextlib.ExitStack,
    accelerator: Accelerator,
) -> tuple[Job, Position, list[str]]:
    """All that the loop needs, where the newest checkpoint stands; and what is to be said of it."""
    objective.to(accelerator.device)
    objective.set_grad_checkpointing(config.train.grad_checkpointing)
    # FSDP2 gathers weights between the blocks, which no graph can contain.
    compile_step(objective, config.train, may_break=accelerator.is_fsdp2)
    optimizer = build_optimizer(objective, config.optim, plan.layer_decay)
    model, optimizer = prepare(objective, optimizer, accelerator)
    position, resumed = resume(run, objective, optimizer, data.manifest, accelerator)
    quarantine = Quarantine(run.quarantine_file, data.manifest, config.data.max_bad, accelerator)
    quarantine.check()
    tracker = Tracker(run, config, accelerator.is_main_process, position.step)
    last.callback(tracker.close)
    job = Job(
        config=config,
        plan=plan,
        data=data,
        objective=objective,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        run=run,
        tracker=tracker,
        saver=Saver(run.checkpoints, config.train.keep_last, config.train.keep_every, accelerator),
        control=Control(timedelta(minutes=config.train.timeout_minutes)),
        quarantine=quarantine,
        guard=Guard(config.guard, int(run.last_metrics().get("skipped", 0))),
        watcher=Watcher(config, plan, objective, *looks_at, run, tracker, accelerator),
        stop=stop,
        advice=Advice(ways_of_run(config, accelerator.device)),
    )
    return job, position, resumed


def see_through(job: Job, position: Position) -> None:
    """Train to the end and say what comes next.  Raises RunFailed where the run takes no more."""
    folder, say = job.run.folder, job.tracker.say
    try:
        train_to_the_end(job, position)
        say(f"done: {job.plan.steps:,} steps; {folder} holds the run. Next:")
        say(f"  mae export {folder} {folder}/export")
        if job.config.objective == "mae":
            say(f"  mae finetune {folder} …  (where there are labels)")
        say(f"  mae report {folder}")
    except OSError as error:
        if not is_of_writing(error, folder):
            raise
        raise RunFailed(f"{folder} cannot be written: {error}") from error
    finally:
        job.tracker.end_line()
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            job.saver.close()


def is_of_writing(error: OSError, folder: Path) -> bool:
    """Whether `error` is about something in `folder`, or about a disk that takes no more."""
    if error.filename is None:
        return error.errno in FULL
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)
