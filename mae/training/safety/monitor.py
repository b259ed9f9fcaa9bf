"""Monitor of a run: reports, guard, quarantine, events, and a hint where data is slow."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator

from mae.base.device import MOST_LOADERS, local_processes, usable_cores
from mae.base.exit_status import append_event
from mae.config.sections import Config, DataConfig
from mae.objectives.registry import declaration
from mae.training.checkpoint.run import Run
from mae.training.meter import Meter
from mae.training.plan import TrainingSetup
from mae.training.planned_hours import PlanWatch
from mae.training.safety.findings import FindingWarnings
from mae.training.safety.guard import Guard, Quarantine, Rollback
from mae.training.tracking.progress_line import metrics_row, progress_line
from mae.training.tracking.tracker import Clock, Tracker

SAMPLES_NAMED = 8
"""largest number of samples that an event lists"""

MIN_WAIT_SHARE = 0.1
"""share of the time waiting for data from which on the hint is printed"""

MIN_SECONDS = 60.0
"""seconds of training before the hint; the first interval, in which workers start, is ignored"""


class Monitor:
    """Meter, guard and quarantine of a run, reporting to its tracker."""

    def __init__(
        self, setup: TrainingSetup, run: Run, tracker: Tracker, accelerator: Accelerator
    ) -> None:
        """Called by all processes.  Raises RunFailed if too many images are bad already."""
        self.config, self.plan, self.data = config, _, data = setup
        self.run = run
        self.tracker, self.accelerator = tracker, accelerator
        self.declared = declaration(config.objective)
        self.quarantine = Quarantine(
            run.quarantine_file,
            data.manifest,
            config.data.max_bad,
            accelerator,
            data.images(config) if run.quarantine_file.exists() else None,
            step=run.newest_step() or 0,
        )
        self.quarantine.check()
        skipped = run.last_metrics().get("skipped")
        self.guard = Guard(config.guard, skipped if isinstance(skipped, int) else 0)
        self.findings = FindingWarnings(config, self.declared, tracker.print_line)
        self.plan_watch = PlanWatch(config, self.plan.steps)
        self.hint = DataWaitHint(remedies_for_run(config, accelerator.device))
        self.begin()

    def begin(self) -> None:
        """Reset meter and clock: at the start of the loop, and after a rollback."""
        self.meter, self.clock = Meter.of(self.accelerator.device, self.declared), Clock()

    def report(self, step: int, lr: float) -> None:
        """Report the steps since the last report; all processes get the same numbers.

        Raises Rollback after a spike, if guard.rollback is on.
        """
        totals = self.meter.read(lambda sums, how: self.accelerator.reduce(sums, reduction=how))
        skipped, spikes = self.guard.evaluate(totals.steps)
        device = self.accelerator.device
        row = metrics_row(
            totals, self.declared, clock=self.clock, done=step, lr=lr, plan=self.plan, device=device
        )
        row["bad"] = self.quarantine.synchronize(step)
        row["skipped"] = self.guard.skipped
        batch_size = self.plan.sharding.batch_size
        self.tracker.report(row, progress_line(row, self.plan.steps, batch_size, self.declared))
        self.findings.add_metrics(row)
        for line in (self.hint(self.clock), self.plan_watch(self.clock.elapsed, step)):
            if line:
                self.tracker.print_line(line)
        if self.accelerator.is_main_process:
            for number in skipped:
                self._event(number, "skip", "gradient not finite")
            for spike in spikes:
                self._event(spike.step, "spike", f"loss {spike.loss:.4g}, score {spike.score:.0f}")
        if spikes and self.config.guard.rollback:
            raise Rollback(spikes[0])

    def must_end(self) -> bool:
        """True after too many bad images or skipped steps, or a finding under guard.strict.

        The run then saves its last checkpoint and ends.
        """
        is_broken = self.quarantine.exceeds_max_bad() or self.guard.exceeds_max_skipped()
        return is_broken or self.findings.fatal is not None

    def check(self, step: int) -> None:
        """Raise RunFailed where `must_end`."""
        self.quarantine.check()
        self.guard.check(step)
        self.findings.check()

    def check_finished(self) -> None:
        """Raise RunFailed where a run without steps left has ended by a finding (guard.strict)."""
        if self.config.guard.strict:
            if row := self.run.last_metrics():
                self.findings.add_metrics(row)
            if row := self.run.last_health():
                self.findings.add_health(row)
            self.findings.check()

    def _event(self, step: int, event: str, reason: str) -> None:
        """Record and print an event of a step, with the samples in its batch."""
        names = self.data.names(step, self.plan.sharding.batch_size)
        more = f" and {len(names) - SAMPLES_NAMED} more" if len(names) > SAMPLES_NAMED else ""
        batch = f"{', '.join(names[:SAMPLES_NAMED])}{more}"
        folder = self.run.folder
        append_event(folder, step, event, f"{reason}; batch: {batch}")
        self.tracker.print_line(
            f"step {step}: {event}: {reason}  (mae inspect-batch {folder} {step})"
        )


def data_wait_remedies(
    data: DataConfig,
    processes: int,
    cores: int,
    has_gpu: bool,
    has_labels: bool = False,
    channels: int = 3,
) -> Iterator[str]:
    """Settings that would speed up data loading, the least intrusive first.

    `processes`: training processes on this machine, which has `cores` CPU cores.  `has_labels`:
    labelled training with augmentation on the CPU, a new crop from each image.  All settings but
    data.workers need a new run.
    """
    workers = MOST_LOADERS if data.workers is None else data.workers
    if workers * processes < cores:
        yield f"data.workers={cores // processes} (there are {cores} cores)"
    if has_gpu and not (data.crop_on_device or data.decode_on_device or has_labels):
        yield "data.crop_on_device=true"
    jpegs = data.bits == 8 and channels in (1, 3)
    if has_gpu and jpegs and not (data.decode_on_device or has_labels):
        yield "data.decode_on_device=true (for JPEGs)"
    yield "mae pack --resize"
    if data.repeats == 1 and not has_labels:
        yield "data.repeats=2"


def remedies_for_run(config: Config, device: torch.device) -> str:
    """`data_wait_remedies` for a run on this machine and `device`, separated by commas."""
    remedies = data_wait_remedies(
        config.data,
        local_processes(),
        usable_cores(),
        has_gpu=device.type == "cuda",
        has_labels=declaration(config.objective).augmentation(config, (1, 1)) is not None,
        channels=config.data.in_chans,
    )
    return ", ".join(remedies)


class DataWaitHint:
    """Hint printed once if training waits for data; called at every report."""

    def __init__(self, remedies: str) -> None:
        """`remedies`: settings that would speed up data loading, for the message."""
        self.remedies = remedies
        self.is_first, self.is_done = True, False
        self.waited = self.elapsed = 0.0

    def __call__(self, clock: Clock) -> str | None:
        """Add the interval of `clock`; returns the hint the first time it is due, else None."""
        if self.is_first or self.is_done:
            self.is_first = False
            return None
        self.waited += clock.waited
        self.elapsed += clock.elapsed
        share = self.waited / self.elapsed
        if self.elapsed < MIN_SECONDS or share < MIN_WAIT_SHARE:
            return None
        self.is_done = True
        return (
            f"data    waited for {share:.0%} of the time ({1 / (1 - share):.1f} times as fast "
            f"without). Remedies: {self.remedies}; all but data.workers need a new run"
        )
