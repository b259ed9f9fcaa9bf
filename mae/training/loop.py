"""The training loop: steps, and what happens between them."""

import time
from collections.abc import Iterator

from mae.base.errors import ProcessFailed, ProcessStopped, RunFailed, Stopped, UserError, WorkerDied
from mae.base.exit_status import append_event
from mae.data.batch import TrainingBatch
from mae.training.checkpoint.files import TrainingState, checkpoints, step_of
from mae.training.checkpoint.resume import resume
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from mae.training.evaluator import Evaluator
from mae.training.plan import Task
from mae.training.safety.guard import Rollback
from mae.training.safety.monitor import Monitor
from mae.training.safety.step_flags import Control, StepFlags
from mae.training.start import StopSignals
from mae.training.step import Learner, Step, train_step


class Trainer:
    """Trains `learner` to the end of its task, keeps checkpoints, reports and evaluates."""

    def __init__(
        self,
        task: Task,
        learner: Learner,
        run: Run,
        saver: Saver,
        monitor: Monitor,
        evaluator: Evaluator,
        control: Control,
        stop: StopSignals,
    ) -> None:
        self.config, self.plan, self.data = task
        self.learner, self.run, self.saver = learner, run, saver
        self.monitor, self.evaluator = monitor, evaluator
        self.control, self.stop = control, stop
        self.skipped: set[int] = set()
        """steps whose batches are left out, after rollbacks"""

    def fit(self, state: TrainingState) -> None:
        """Train to the end; again from an earlier checkpoint where guard.rollback asks for it.

        Raises RunFailed and Stopped, after a checkpoint where there can be one.
        """
        guard = self.config.guard
        self.skipped = set(state.skipped)
        most = guard.max_rollbacks if guard.rollback else 0
        if most and state.step == 0:
            self._save(0, wait=True)  # else an early spike would find nothing to go back to
        rollbacks = 0
        while state.step < self.plan.steps:
            try:
                return self._train(state.step)
            except Rollback as back:
                rollbacks += 1
                if rollbacks > most:
                    raise RunFailed(
                        f"{back}, after {most} rollbacks (guard.max_rollbacks)"
                    ) from None
                state = self._roll_back(back)

    def _train(self, start: int) -> None:
        """The loop, from step `start` to the end of the plan, without the steps left out."""
        config, plan, monitor = self.config, self.plan, self.monitor
        learner = self.learner
        stream = self.data.batches(
            config,
            plan.sharding,
            learner.objective.img_size,
            start,
            plan.steps,
            self.skipped,
            learner.accelerator.device,
        )
        monitor.begin()
        saved_at = time.monotonic()
        learner.model.train()
        self.stop.in_loop = True
        steps = [step for step in range(start + 1, plan.steps + 1) if step not in self.skipped]
        done = start
        for step in steps:
            now = Step(step, plan.steps, plan.lr_at(step - 1, config), plan.sharding.accumulation)
            train_step(learner, self._batches(stream, start, step, done), now, monitor.meter)
            done = step

            minutes = (time.monotonic() - saved_at) / 60
            flags = self._agree(is_time=0 < config.train.checkpoint_minutes < minutes)
            if flags.failed:
                raise RunFailed(self.saver.problem() or f"step {step}: a checkpoint failed")
            is_end = step == steps[-1]
            is_due = step % config.train.checkpoint_every == 0
            is_saved = is_end or flags.stop or flags.save or is_due
            is_reported = is_saved or step % config.log.every == 0 or step == 1
            if is_reported:
                monitor.report(step, now.lr)
            is_last = is_end or flags.stop or (is_reported and monitor.must_end())
            # While steps are skipped nothing new is learned, and good checkpoints would be pushed
            # out.
            if is_last or (is_saved and not monitor.guard.in_a_row):
                self._save(step, wait=is_last)
                saved_at = time.monotonic()
            monitor.check(step)
            if flags.stop and not is_end:
                signal = self.stop.requested or "another process's signal"
                raise Stopped(f"stopped by {signal} after step {step}")
            self.evaluator.evaluate(step, is_end)
            if is_reported:
                monitor.clock.restart()

    def _batches(
        self, stream: Iterator[TrainingBatch], start: int, step: int, done: int
    ) -> Iterator[TrainingBatch]:
        """The micro-batches of `step`; ProcessFailed or ProcessStopped where they do not come."""
        for _ in range(self.plan.sharding.accumulation):
            try:
                with self.stop.waiting():
                    batch = self.monitor.clock.wait_for(stream)
            except (WorkerDied, UserError, Stopped) as error:
                raise self._without_data(error, start, step, done) from error
            self.monitor.quarantine.note(batch.bad)
            yield batch

    def _agree(self, is_time: bool) -> StepFlags:
        """Requests of any process after this step; all processes call it."""
        return self.control.agree(
            StepFlags(
                stop=bool(self.stop.requested),
                save=is_time,
                failed=self.saver.problem() is not None,
            )
        )

    def _roll_back(self, back: Rollback) -> TrainingState:
        """Load a checkpoint from before a spike; its batches are left out from now on."""
        self.saver.wait()
        self.skipped.update(back.leave_out)
        before, spike = back.leave_out
        learner = self.learner
        state, notes = resume(
            self.run,
            learner.objective,
            learner.optimizer,
            self.data.manifest,
            learner.accelerator,
            before,
            average=learner.average,
        )
        self.monitor.guard.rewind(state.step)
        what = f"{back}: going on from step {state.step:,} without steps {before}, {spike}"
        for line in (*notes, what):
            self.monitor.tracker.say(line)
        if self.learner.accelerator.is_main_process:
            append_event(self.run.folder, state.step, "rollback", what)
        return state

    def _save(self, step: int, wait: bool) -> None:
        """Write a checkpoint; all processes call it."""
        learner, state = self.learner, self._state(step)
        optimizer = learner.optimizer.optimizer
        self.saver.save(learner.objective, optimizer, state, wait, average=learner.average)

    def _without_data(
        self, error: BaseException, start: int, step: int, done: int
    ) -> BaseException:
        """The error to raise where the data of `step` does not come, after a checkpoint."""
        try:
            where = self._save_alone(done) if done > start else done
        except RunFailed as second:
            return ProcessFailed(f"step {step}: {error}; and {second}")
        if isinstance(error, Stopped):
            return ProcessStopped(f"{error}; stands at step {where}")
        return ProcessFailed(f"step {step}: {error}; stands at step {where}")

    def _save_alone(self, step: int) -> int:
        """Write a checkpoint by this process alone; the step that the run then stands at.

        The weights are those of the last step, here as everywhere: no other process, busy with
        the next one, is needed.
        """
        self.monitor.quarantine.write_own(step)
        learner, state = self.learner, self._state(step)
        optimizer = learner.optimizer.optimizer
        if self.saver.save_alone(learner.objective, optimizer, state, average=learner.average):
            return step
        return max(map(step_of, checkpoints(self.run.checkpoints)), default=0)

    def _state(self, step: int) -> TrainingState:
        samples = step * self.plan.sharding.batch_size
        fingerprint = self.data.manifest.fingerprint
        return TrainingState(step, samples, fingerprint, tuple(sorted(self.skipped)))
