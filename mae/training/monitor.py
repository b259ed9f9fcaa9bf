"""Watch over a run: numbers reported, bad images and bad steps counted, named and limited."""

from accelerate import Accelerator

from mae.base.exit_status import append_event
from mae.objectives.registry import declaration
from mae.training.advice import Advice, ways_of_run
from mae.training.guard import Guard, Rollback
from mae.training.meter import Meter
from mae.training.plan import Task
from mae.training.progress import measure, progress_line
from mae.training.quarantine import Quarantine
from mae.training.run import Run
from mae.training.tracking import Clock, Tracker

SAMPLES_NAMED = 8
"""of a step that is an event"""


class Monitor:
    """Meter, guard and quarantine of a run, and the tracker that they report to."""

    def __init__(self, task: Task, run: Run, tracker: Tracker, accelerator: Accelerator) -> None:
        """All processes call it.  Raises RunFailed where too many images are bad by now."""
        self.config, self.plan, self.data = config, _, data = task
        self.run = run
        self.tracker, self.accelerator = tracker, accelerator
        self.declared = declaration(config.objective)
        self.quarantine = Quarantine(
            run.quarantine_file, data.manifest, config.data.max_bad, accelerator
        )
        self.quarantine.check()
        self.guard = Guard(config.guard, int(run.last_metrics().get("skipped", 0)))
        self.advice = Advice(ways_of_run(config, accelerator.device))
        self.begin()

    def begin(self) -> None:
        """Start counting anew: at the start of the loop, and after a rollback."""
        self.meter, self.clock = Meter.of(self.accelerator.device, self.declared), Clock()

    def report(self, step: int, lr: float) -> None:
        """Report the steps since the last report; all processes come to the same numbers.

        Raises Rollback after a spike, where guard.rollback asks for it.
        """
        totals = self.meter.read(lambda sums, how: self.accelerator.reduce(sums, reduction=how))
        skipped, spikes = self.guard.judge(totals.steps)
        device = self.accelerator.device
        row = measure(totals, self.declared, self.clock, step, lr, self.plan, device)
        row["bad"] = self.quarantine.settle(step)
        row["skipped"] = self.guard.skipped
        batch_size = self.plan.slices.batch_size
        self.tracker.report(row, progress_line(row, self.plan.steps, batch_size, self.declared))
        if words := self.advice(self.clock):
            self.tracker.say(words)
        if self.accelerator.is_main_process:
            for number in skipped:
                self._event(number, "skip", "gradient not finite")
            for spike in spikes:
                self._event(spike.step, "spike", f"loss {spike.loss:.4g}, score {spike.score:.0f}")
        if spikes and self.config.guard.rollback:
            raise Rollback(spikes[0])

    def must_end(self) -> bool:
        """Too many bad images, or too many steps skipped: the last checkpoint is due."""
        return self.quarantine.is_full() or self.guard.is_hopeless()

    def check(self, step: int) -> None:
        """RunFailed where the run must end."""
        self.quarantine.check()
        self.guard.check(step)

    def _event(self, step: int, event: str, reason: str) -> None:
        """Record an event of a step, with the samples that were in it."""
        names = self.data.names(step, self.plan.slices.batch_size)
        more = f" and {len(names) - SAMPLES_NAMED} more" if len(names) > SAMPLES_NAMED else ""
        batch = f"{', '.join(names[:SAMPLES_NAMED])}{more}"
        folder = self.run.folder
        append_event(folder, step, event, f"{reason}; batch: {batch}")
        self.tracker.say(f"step {step}: {event}: {reason}  (mae inspect-batch {folder} {step})")
