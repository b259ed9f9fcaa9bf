"""The training loop: steps, reports, checkpoints, evaluation, rollback, stopping."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NoReturn

from mae.base.errors import (
    DataTimeout,
    ProcessFailed,
    ProcessStopped,
    RunFailed,
    Stopped,
    UserError,
    WorkerDied,
)
from mae.base.exit_status import append_event
from mae.base.progress import busy
from mae.data.batch import TrainingBatch
from mae.training.checkpoint.checkpoint_files import TrainingState, checkpoints, step_of
from mae.training.checkpoint.resume import resume
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from mae.training.evaluator import Evaluator
from mae.training.plan import TrainingSetup
from mae.training.safety.data_watch import DataWatch
from mae.training.safety.guard import Rollback
from mae.training.safety.lifecycle import StopSignals
from mae.training.safety.monitor import Monitor
from mae.training.safety.step_flags import StepFlagReducer, StepFlags
from mae.training.step import Learner, Step, train_step

WORKERS_GRACE = 60
"""seconds after which a wait for data workers is ended from outside: it should have ended itself"""
SAVE_SECONDS = 300
"""seconds for the last checkpoint where the wait for data does not end: its disk may be stuck"""


class Trainer:
    """Trains `learner` to the end of its plan; saves checkpoints, reports and evaluates."""

    def __init__(
        self,
        setup: TrainingSetup,
        learner: Learner,
        run: Run,
        saver: Saver,
        monitor: Monitor,
        evaluator: Evaluator,
        flag_reducer: StepFlagReducer,
        stop: StopSignals,
        end_process: Callable[[ProcessFailed], NoReturn],
    ) -> None:
        """`end_process`: reports an error and ends the process, from any thread."""
        self.config, self.plan, self.data = setup
        self.learner, self.run, self.saver = learner, run, saver
        self.monitor, self.evaluator = monitor, evaluator
        self.flag_reducer, self.stop = flag_reducer, stop
        self.end_process = end_process
        self.waiting_for = (0, 0, 0)
        """first step of this start, step that waits for data, last finished step"""
        seconds = 60 * self.config.train.timeout_minutes
        grace = 0 if self.config.data.workers == 0 else WORKERS_GRACE
        self.watch = DataWatch(seconds + grace, self._end_wait)
        self.skipped: set[int] = set()
        """steps that are never trained: after rollbacks, those of the spikes and the ones before"""

    def fit(self, state: TrainingState) -> None:
        """Train to the end of the plan, rolling back after loss spikes if guard.rollback is on.

        Raises RunFailed and Stopped, after writing a checkpoint where possible.
        """
        guard = self.config.guard
        self.skipped = set(state.skipped)
        max_rollbacks = guard.max_rollbacks if guard.rollback else 0
        if max_rollbacks and state.step == 0:
            self._save(0, wait=True)  # an early spike needs a checkpoint to return to
        rollbacks = len(self.skipped) // 2  # those of earlier starts, too: each adds two steps
        if state.step == 0:
            self.evaluator.evaluate_start()
        if state.step == self.plan.steps:
            self.monitor.check_finished()
        while state.step < self.plan.steps:
            try:
                return self._train(state.step)
            except Rollback as back:
                rollbacks += 1
                if rollbacks > max_rollbacks:
                    raise RunFailed(
                        f"{back}, after {max_rollbacks} rollbacks (guard.max_rollbacks)"
                    ) from None
                state = self._roll_back(back)

    def _train(self, start: int) -> None:
        """Train the steps after `start`, except those in `self.skipped`."""
        config, plan, monitor = self.config, self.plan, self.monitor
        learner = self.learner
        stream = self.data.batches(
            config,
            plan.sharding,
            img_size=learner.objective.img_size,
            first=start,
            last=plan.steps,
            skipped=self.skipped,
            device=learner.accelerator.device,
        )
        monitor.begin()
        saved_at = time.monotonic()
        learner.model.train()
        self.stop.enter_loop()
        steps = [step for step in range(start + 1, plan.steps + 1) if step not in self.skipped]
        done = start
        for step in steps:
            now = Step(step, plan.steps, plan.lr_at(step - 1, config), plan.sharding.accumulation)
            is_first = step == steps[0]
            with busy("first step (data workers start)") if is_first else nullcontext():
                train_step(learner, self._batches(stream, start, step, done), now, monitor.meter)
            done = step

            minutes = (time.monotonic() - saved_at) / 60
            flags = self._reduce_flags(is_time=0 < config.train.checkpoint_minutes < minutes)
            if flags.failed:
                raise RunFailed(self.saver.problem() or f"step {step}: a checkpoint failed")
            is_end = step == steps[-1]
            is_due = step % plan.intervals.checkpoint == 0
            is_saved = is_end or flags.stop or flags.save or is_due
            is_reported = is_saved or step % config.log.every == 0 or step == 1
            if is_reported:
                monitor.report(step, now.lr)
            else:
                monitor.tracker.show_step(step)
            is_last = is_end or flags.stop or (is_reported and monitor.must_end())
            # While the guard skips steps nothing is learned, and new checkpoints would displace
            # good ones.
            if is_last or (is_saved and not monitor.guard.consecutive_skipped):
                with busy("saving the last checkpoint") if is_last else nullcontext():
                    self._save(step, wait=is_last)
                saved_at = time.monotonic()
            if is_reported:  # with a checkpoint, where the run must end
                monitor.check(step)
            if flags.stop and not is_end:
                signal = self.stop.requested or "another process's signal"
                raise Stopped(f"stopped by {signal} after step {step}")
            self.evaluator.evaluate(step, is_end)
            if is_end:
                monitor.check(step)
            if is_reported:
                monitor.clock.restart()

    def _batches(
        self, stream: Iterator[TrainingBatch], start: int, step: int, done: int
    ) -> Iterator[TrainingBatch]:
        """Micro-batches of `step`; ProcessFailed or ProcessStopped where they cannot be loaded."""
        self.waiting_for = (start, step, done)
        for _ in range(self.plan.sharding.accumulation):
            try:
                with self.stop.waiting(), self.watch.waiting():
                    batch = self.monitor.clock.wait_for(stream)
            except (WorkerDied, DataTimeout, UserError, Stopped) as error:
                raise self._data_error(error, start, step, done) from error
            self.monitor.quarantine.add(batch.bad)
            yield batch

    def _reduce_flags(self, is_time: bool) -> StepFlags:
        """Combine the flags of all processes after a step.  All processes call it."""
        return self.flag_reducer.reduce(
            StepFlags(
                stop=bool(self.stop.requested),
                save=is_time,
                failed=self.saver.problem() is not None,
            )
        )

    def _roll_back(self, back: Rollback) -> TrainingState:
        """Load a checkpoint from before the spike and skip the batches around it from now on."""
        self.saver.wait()
        self.skipped.update(back.skipped_steps)
        before, spike = back.skipped_steps
        learner = self.learner
        state, notes = resume(
            self.run,
            learner.objective,
            optimizer=learner.optimizer,
            manifest=self.data.manifest,
            accelerator=learner.accelerator,
            before=before,
            average=learner.average,
        )
        self.monitor.guard.rewind(state.step)
        what = f"{back}: resuming from step {state.step:,}, skipping steps {before} and {spike}"
        for line in (*notes, what):
            self.monitor.tracker.print_line(line)
        if self.learner.accelerator.is_main_process:
            append_event(self.run.folder, state.step, "rollback", what)
        return state

    def _save(self, step: int, wait: bool) -> None:
        """Write a checkpoint.  All processes call it."""
        learner, state = self.learner, self._state(step)
        optimizer = learner.optimizer.optimizer
        self.saver.save(learner.objective, optimizer, state, wait, average=learner.average)

    def _data_error(self, error: BaseException, start: int, step: int, done: int) -> BaseException:
        """Save a checkpoint and return the error to raise where the data of `step` is missing."""
        try:
            saved = self._save_alone(done) if done > start else done
        except RunFailed as second:
            return ProcessFailed(f"step {step}: {error}; and {second}")
        if isinstance(error, Stopped):
            return ProcessStopped(f"{error}; the last checkpoint is of step {saved}")
        return ProcessFailed(f"step {step}: {error}; the last checkpoint is of step {saved}")

    def _end_wait(self) -> None:
        """End the process after a wait for data that the waiting thread cannot end."""
        start, step, done = self.waiting_for
        sharding = self.plan.sharding
        names = self.data.names(step, sharding.batch_size)
        first = sharding.process_index * sharding.batch_size // sharding.num_processes
        what = (
            f"no data for {self.config.train.timeout_minutes:g} minutes: waited for the images "
            f"from {names[first]} on; is the storage of the shards stuck?"
        )
        found = [f"step {step}: {what}"]

        def save() -> None:
            found.append(str(self._data_error(DataTimeout(what), start, step, done)))

        saving = threading.Thread(target=save, daemon=True)
        saving.start()
        saving.join(SAVE_SECONDS)
        self.end_process(ProcessFailed(found[-1]))

    def _save_alone(self, step: int) -> int:
        """Write a checkpoint from this process alone; returns the step of the newest checkpoint.

        All processes have the same weights of the last step, so the others, which are busy with
        the next one, are not needed.
        """
        self.monitor.quarantine.write_local(step)
        learner, state = self.learner, self._state(step)
        optimizer = learner.optimizer.optimizer
        if self.saver.save_alone(learner.objective, optimizer, state, average=learner.average):
            return step
        return max(map(step_of, checkpoints(self.run.checkpoints)), default=0)

    def _state(self, step: int) -> TrainingState:
        samples = step * self.plan.sharding.batch_size
        fingerprint = self.data.manifest.fingerprint
        return TrainingState(step, samples, fingerprint, tuple(sorted(self.skipped)), self.run.id)
