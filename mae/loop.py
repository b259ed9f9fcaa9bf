"""The training loop: steps, and what happens between them."""

import contextlib
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from mae.config import Config
from mae.data.training_data import TrainingData
from mae.errors import ProcessFailed, ProcessStopped, RunFailed, Stopped, UserError, WorkerDied
from mae.exits import append_event
from mae.hashing import Stream, fold
from mae.objective import Objective
from mae.training.advice import Advice
from mae.training.checkpoint import Position, checkpoints, step_of
from mae.training.compiling import begin_step
from mae.training.control import Control, Wishes
from mae.training.feeding import Feed, forward
from mae.training.guard import Guard, Rollback, skip_if_not_finite
from mae.training.meter import Meter
from mae.training.optim import set_lr
from mae.training.plan import Plan
from mae.training.progress import measure, progress_line
from mae.training.quarantine import Quarantine
from mae.training.resume import resume
from mae.training.run import Run
from mae.training.saver import Saver
from mae.training.seeding import seed_libraries
from mae.training.signals import StopSignals
from mae.training.tracking import Clock, Tracker
from mae.watching import Watcher

SAMPLES_TOLD = 8


@dataclass(frozen=True)
class Job:
    """What a run consists of."""

    config: Config
    plan: Plan
    data: TrainingData
    objective: Objective
    model: torch.nn.Module
    """the objective as accelerate prepared it"""
    optimizer: AcceleratedOptimizer
    accelerator: Accelerator
    run: Run
    tracker: Tracker
    saver: Saver
    control: Control
    quarantine: Quarantine
    guard: Guard
    watcher: Watcher
    stop: StopSignals
    advice: Advice


def train_to_the_end(job: Job, position: Position) -> None:
    """The loop to its end; again from an earlier checkpoint where guard.rollback asks for it."""
    left_out = set(position.skipped)
    most = job.config.guard.max_rollbacks if job.config.guard.rollback else 0
    if most and position.step == 0:
        save(job, 0, left_out, wait=True)  # else an early spike would find nothing to go back to
    rollbacks = 0
    while position.step < job.plan.steps:
        try:
            return train(job, position.step, left_out)
        except Rollback as back:
            rollbacks += 1
            if rollbacks > most:
                raise RunFailed(f"{back}, after {most} rollbacks (guard.max_rollbacks)") from None
            position = roll_back(job, back, left_out)


def roll_back(job: Job, back: Rollback, left_out: set[int]) -> Position:
    """Where the run goes on: an earlier checkpoint; `left_out` grows by the steps to leave out."""
    job.saver.wait()
    left_out.update(back.leave_out)
    before, spike = back.leave_out
    run, data = job.run, job.data.manifest
    position, notes = resume(run, job.objective, job.optimizer, data, job.accelerator, before)
    job.guard.rewind(position.step)
    what = f"{back}: going on from step {position.step:,} without steps {before}, {spike}"
    for line in (*notes, what):
        job.tracker.say(line)
    if job.accelerator.is_main_process:
        append_event(run.folder, position.step, "rollback", what)
    return position


def train(job: Job, start: int, left_out: set[int]) -> None:
    """The loop, from step `start` to the end of the plan, without the steps in `left_out`."""
    config, plan, accelerator = job.config, job.plan, job.accelerator
    slices, seed = plan.slices, config.train.seed
    micro_batches = job.data.batches(
        config, slices, job.objective.img_size, start, plan.steps, left_out, accelerator.device
    )
    feed, meter, clock = Feed(accelerator.device), Meter(accelerator.device), Clock()
    saved_at = time.monotonic()
    job.model.train()
    job.stop.in_loop = True
    done = start
    steps = [step for step in range(start + 1, plan.steps + 1) if step not in left_out]
    for step in steps:
        lr = plan.lr_at(step - 1, config)
        set_lr(job.optimizer, lr)
        begin_step(config.train)
        for micro in range(slices.accumulation):
            try:
                with job.stop.waiting():
                    batch = clock.wait_for(micro_batches)
            except (WorkerDied, UserError, Stopped) as error:
                raise no_more_data(job, error, start, step, done, left_out) from error
            # After the loader, whose first batch draws a number, too: what chance decides in the
            # model must not depend on where the run was resumed.
            seed_libraries(fold(seed, Stream.STEP, step, micro, accelerator.process_index))
            job.quarantine.note(batch.bad)
            is_synced = micro == slices.accumulation - 1
            with contextlib.nullcontext() if is_synced else accelerator.no_sync(job.model):
                output = forward(job.model, job.objective, feed, batch)
                accelerator.backward(output.loss / slices.accumulation)
            meter.add(output)
        meter.end_step(step, skip_if_not_finite(job.optimizer.optimizer))
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        job.objective.after_step(step)
        done = step

        minutes = (time.monotonic() - saved_at) / 60
        wishes = job.control.agree(
            Wishes(
                stop=bool(job.stop.requested),
                save=0 < config.train.checkpoint_minutes < minutes,
                failed=job.saver.problem() is not None,
            )
        )
        if wishes.failed:
            raise RunFailed(job.saver.problem() or f"step {step}: a checkpoint failed")
        is_end = step == steps[-1]
        is_saved = is_end or wishes.stop or wishes.save or step % config.train.checkpoint_every == 0
        is_reported = is_saved or step % config.log.every == 0 or step == 1
        if is_reported:
            report(job, meter, clock, step, lr)
        is_last = is_end or wishes.stop or (is_reported and must_end(job))
        # While steps are skipped nothing new is learned, and good checkpoints would be pushed out.
        if is_last or (is_saved and not job.guard.in_a_row):
            save(job, step, left_out, wait=is_last)
            saved_at = time.monotonic()
        job.quarantine.check()
        job.guard.check(step)
        if wishes.stop and not is_end:
            signal = job.stop.requested or "another process's signal"
            raise Stopped(f"stopped by {signal} after step {step}")
        job.watcher.look(step, is_end)
        if is_reported:
            clock.restart()


def report(job: Job, meter: Meter, clock: Clock, step: int, lr: float) -> None:
    """Tell how the steps since the last report went; all processes come to the same.

    Raises Rollback after a spike, where guard.rollback asks for it.
    """
    totals = meter.read(lambda sums: job.accelerator.reduce(sums, reduction="mean"))
    skipped, spikes = job.guard.judge(totals.steps)
    device = job.accelerator.device
    row = measure(totals, job.objective, clock, step, lr, job.plan, device)
    row["bad"] = job.quarantine.settle(step)
    row["skipped"] = job.guard.skipped
    job.tracker.report(row, progress_line(row, job.plan.steps, job.plan.slices.batch_size))
    if words := job.advice(clock):
        job.tracker.say(words)
    if job.accelerator.is_main_process:
        for number in skipped:
            tell(job, number, "skip", "gradient not finite")
        for spike in spikes:
            tell(job, spike.step, "spike", f"loss {spike.loss:.4g}, score {spike.score:.0f}")
    if spikes and job.config.guard.rollback:
        raise Rollback(spikes[0])


def tell(job: Job, step: int, event: str, reason: str) -> None:
    """An event of a step, with the samples that were in it."""
    names = job.data.names(step, job.plan.slices.batch_size)
    more = f" and {len(names) - SAMPLES_TOLD} more" if len(names) > SAMPLES_TOLD else ""
    batch = f"{', '.join(names[:SAMPLES_TOLD])}{more}"
    append_event(job.run.folder, step, event, f"{reason}; batch: {batch}")
    job.tracker.say(f"step {step}: {event}: {reason}  (mae inspect-batch {job.run.folder} {step})")


def must_end(job: Job) -> bool:
    """Too many bad images, or too many steps skipped: the last checkpoint is due."""
    return job.quarantine.is_full() or job.guard.is_hopeless()


def save(job: Job, step: int, left_out: set[int], wait: bool) -> None:
    """A checkpoint by all processes."""
    job.saver.save(job.objective, job.optimizer.optimizer, position_of(job, step, left_out), wait)


def no_more_data(
    job: Job, error: BaseException, start: int, step: int, done: int, left_out: set[int]
) -> BaseException:
    """What is to be raised where the data of `step` does not come, after a checkpoint if can be."""
    try:
        where = save_alone(job, done, left_out) if done > start else done
    except RunFailed as second:
        return ProcessFailed(f"step {step}: {error}; and {second}")
    if isinstance(error, Stopped):
        return ProcessStopped(f"{error}; stands at step {where}")
    return ProcessFailed(f"step {step}: {error}; stands at step {where}")


def save_alone(job: Job, step: int, left_out: set[int]) -> int:
    """A checkpoint by this process alone; the step that the run then stands at.

    The weights are those of the last step, here as everywhere: no other process, busy with the
    next one, is needed.
    """
    job.quarantine.write_own(step)
    position = position_of(job, step, left_out)
    if job.saver.save_alone(job.objective, job.optimizer.optimizer, position):
        return step
    return max(map(step_of, checkpoints(job.run.checkpoints)), default=0)


def position_of(job: Job, step: int, left_out: set[int]) -> Position:
    """Where the run stands after `step`."""
    samples = step * job.plan.slices.batch_size
    return Position(step, samples, job.data.manifest.fingerprint, tuple(sorted(left_out)))
