"""Watch over a run: numbers reported, bad images and bad steps counted, named and limited."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator

from mae.base.device import usable_cores
from mae.base.exit_status import append_event
from mae.config.sections import Config, DataConfig
from mae.objectives.registry import declaration
from mae.training.checkpoint.run import Run
from mae.training.meter import Meter
from mae.training.plan import Task, local_processes
from mae.training.safety.guard import Guard, Quarantine, Rollback
from mae.training.tracking.progress import measure, progress_line
from mae.training.tracking.tracker import Clock, Tracker

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
        self.hint = DataWaitHint(ways_of_run(config, accelerator.device))
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
        batch_size = self.plan.sharding.batch_size
        self.tracker.report(row, progress_line(row, self.plan.steps, batch_size, self.declared))
        if words := self.hint(self.clock):
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
        names = self.data.names(step, self.plan.sharding.batch_size)
        more = f" and {len(names) - SAMPLES_NAMED} more" if len(names) > SAMPLES_NAMED else ""
        batch = f"{', '.join(names[:SAMPLES_NAMED])}{more}"
        folder = self.run.folder
        append_event(folder, step, event, f"{reason}; batch: {batch}")
        self.tracker.say(f"step {step}: {event}: {reason}  (mae inspect-batch {folder} {step})")


WAITING = 0.1
"""share of the time from which on it is worth a word"""
SURE_AFTER = 60.0
"""seconds of steps; the first interval, in which workers start, does not count"""


def ways_to_feed(
    data: DataConfig,
    processes: int,
    cores: int,
    has_gpu: bool,
    has_labels: bool = False,
    channels: int = 3,
) -> Iterator[str]:
    """Settings that would bring the data faster, the harmless ones first.

    `processes`: those that train on this machine, of `cores` processors.  `has_labels`: a
    classifier's, whose crops are augmented on the CPU, a new one from each image.  All but the
    number of workers makes another run.
    """
    if data.workers * processes < cores:
        yield f"data.workers={cores // processes} (there are {cores} cores)"
    if has_gpu and not (data.crop_on_device or data.decode_on_device or has_labels):
        yield "data.crop_on_device=true"
    jpegs = data.bits == 8 and channels in (1, 3)
    if has_gpu and jpegs and not (data.decode_on_device or has_labels):
        yield "data.decode_on_device=true (for JPEGs)"
    yield "mae pack --resize"
    if data.repeats == 1 and not has_labels:
        yield "data.repeats=2"


def ways_of_run(config: Config, device: torch.device) -> str:
    """The same for a run on this machine and `device`, with commas between them."""
    ways = ways_to_feed(
        config.data,
        local_processes(),
        usable_cores(),
        has_gpu=device.type == "cuda",
        has_labels=declaration(config.objective).augmentation(config, (1, 1)) is not None,
        channels=config.data.in_chans,
    )
    return ", ".join(ways)


class DataWaitHint:
    """Asked at every report; has something to say once, if at all."""

    def __init__(self, ways: str) -> None:
        """`ways`: what would help."""
        self.ways = ways
        self.is_first, self.is_told = True, False
        self.waited = self.elapsed = 0.0

    def __call__(self, clock: Clock) -> str | None:
        """What to say after the interval of `clock`."""
        if self.is_first or self.is_told:
            self.is_first = False
            return None
        self.waited += clock.waited
        self.elapsed += clock.elapsed
        share = self.waited / self.elapsed
        if self.elapsed < SURE_AFTER or share < WAITING:
            return None
        self.is_told = True
        return (
            f"data    waited for {share:.0%} of the time ({1 / (1 - share):.1f} times as fast "
            f"without). What would help: {self.ways}; all but data.workers makes another run"
        )
