"""`mae bench overhead`: what guard, metrics and panels add to the step of a run."""

import contextlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

import mae.training.step
from mae.bench.synthetic import build, synthetic_batch
from mae.bench.timing import machine, spread
from mae.config.sections import Config, LogConfig
from mae.data.batch import BatchSharding
from mae.objectives.registry import declaration
from mae.pictures.drawing import save_png
from mae.training.checkpoint.run import Run
from mae.training.evaluator import draw_panel, draws_panels
from mae.training.meter import Meter
from mae.training.optim import Taken
from mae.training.plan import Plan, build_accelerator
from mae.training.safety.guard import Guard
from mae.training.safety.step_flags import Control, StepFlags
from mae.training.step import Learner, Step, build_learner, train_step
from mae.training.tracking.progress import measure, progress_line
from mae.training.tracking.tracker import Clock, Tracker

STEPS = 10**6
"""of the run that the steps are of"""


class Watched:
    """Steps on synthetic images, with all that the loop does beside them or without it."""

    def __init__(self, config: Config, learner: Learner, tracker: Tracker) -> None:
        self.config, self.learner, self.tracker = config, learner, tracker
        self.device, self.size = learner.accelerator.device, config.train.batch_size
        self.declared = declaration(config.objective)
        self.batch = synthetic_batch(config, learner.objective.img_size, self.size)
        self.plan = Plan(BatchSharding(self.size, 1, 0, 1), num_samples=STEPS, steps=STEPS, lr=1e-4)
        self.control, self.guard = Control(timedelta(minutes=1)), Guard(config.guard)
        self.meter, self.clock = Meter.of(self.device, self.declared), Clock()
        self.done = 0

    def step(self, is_watched: bool) -> float:
        """Seconds of the next step: the loop's, or the same without guard, meter and agreement."""
        self.done += 1
        place = Step(self.done, STEPS, self.plan.lr)

        def bare() -> None:
            train_step(self.learner, [self.batch], place)

        def watched() -> None:
            train_step(self.learner, [self.batch], place, self.meter)
            self.control.agree(StepFlags())

        if is_watched:
            return self.seconds(watched)
        with patch.object(mae.training.step, "take_step", Unguarded(self.device)):
            return self.seconds(bare)

    def report(self) -> float:
        """Seconds of a report, as `Monitor.report` makes it."""
        accelerator = self.learner.accelerator

        def work() -> None:
            totals = self.meter.read(lambda sums, how: accelerator.reduce(sums, reduction=how))
            self.guard.judge(totals.steps)
            row = measure(
                totals, self.declared, self.clock, self.done, self.plan.lr, self.plan, self.device
            )
            row |= {"bad": 0, "skipped": self.guard.skipped}
            line = progress_line(row, self.plan.steps, self.size, self.declared)
            self.tracker.report(row, line)

        with contextlib.redirect_stdout(io.StringIO()):
            return self.seconds(work)

    def panel(self) -> float:
        """Seconds of a panel, as `Evaluator` draws it; 0 where the objective has none."""
        objective, shown = self.learner.objective, self.config.log.panel_images

        def work() -> None:
            images, seeds = (
                one[:shown].to(self.device)
                for one in (self.batch.images, self.batch.seeds)
                if torch.is_tensor(one)
            )
            picture = draw_panel(self.config, objective, images, seeds, "synthetic images")
            assert picture is not None
            path = self.tracker.run.panels / f"step-{self.done:09d}.png"
            save_png(picture, path)
            self.tracker.picture("panel", path, self.done)

        return self.seconds(work) if draws_panels(self.config, objective) else 0.0

    def seconds(self, work: Callable[[], None]) -> float:
        """Duration of `work`."""
        began = _now(self.device)
        work()
        return _now(self.device) - began


class Unguarded:
    """Stands for `take_step` in a bare step: no norm but for clipping, nothing ever skipped."""

    def __init__(self, device: torch.device) -> None:
        zero = torch.zeros((), device=device)
        self.taken = Taken(zero, zero.bool())

    def __call__(self, optimizer: Optimizer, clip_grad: float) -> Taken:
        """Make the step."""
        if clip_grad:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return self.taken


def bench_overhead(config: Config, rounds: int) -> dict:
    """Steps of the model that `config` describes on synthetic images, with all that off and on.

    Steps come in turn, one without and one with.  Report and panel are timed once a round, and
    count as their share of log.every and log.panel_every steps.  The result is ready for JSON.
    Raises UserError for settings that need training data.
    """
    accelerator = build_accelerator(config.train)
    learner = learner_of(config, accelerator)
    millions = sum(p.numel() for p in learner.objective.parameters() if p.requires_grad) / 1e6
    about = declaration(config.objective).describe(config, f"{millions:.1f} M parameters")
    off: list[list[float]] = []
    on: list[list[float]] = []
    reports, panels = [], []
    with tempfile.TemporaryDirectory(prefix="mae-bench-") as folder:
        run = Run(folder)
        run.panels.mkdir()
        local = config.model_copy(update={"log": _local(config)})
        watched = Watched(config, learner, Tracker(run, local, is_main=True))
        for _ in range(rounds + 1):
            both: list[list[float]] = [[], []]
            for number in range(2 * config.log.every):
                is_watched = bool(number % 2)
                both[is_watched].append(watched.step(is_watched))
            off.append(both[0])
            on.append(both[1])
            reports.append(watched.report())
            panels.append(watched.panel())
    return {
        "machine": machine(),
        "device": str(accelerator.device),
        "model": about,
        "batch_size": config.train.batch_size,
        "rounds": rounds,
        "report_every": config.log.every,
        "panel_every": config.log.panel_every,
        **shares_of(off[1:], on[1:], reports[1:], panels[1:], config.log),
    }


def learner_of(config: Config, accelerator: Accelerator) -> Learner:
    """A new model of `config` in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        objective = build(config)
    learner = build_learner(config, objective, accelerator)
    learner.model.train()
    return learner


def shares_of(
    off: Sequence[Sequence[float]],
    on: Sequence[Sequence[float]],
    reports: Sequence[float],
    panels: Sequence[float],
    log: LogConfig,
) -> dict:
    """Shares of a bare step, from the seconds of steps without and with all that, by round."""
    bare = median([one for each in off for one in each])
    added = [(median(b) - median(a)) / bare for a, b in zip(off, on, strict=True)]
    shares = {
        "every_step": median(added),
        "reports": median(reports) / log.every / bare,
        "panels": median(panels) / (log.panel_every or math.inf) / bare,
    }
    return {
        "step_ms": 1000 * bare,
        "report_ms": 1000 * median(reports),
        "panel_ms": 1000 * median(panels),
        **shares,
        "every_step_by_round": spread(added),
        "together": sum(shares.values()),
    }


def overhead_table(result: dict) -> str:
    """For people."""
    about, by_round = result["machine"], result["every_step_by_round"]
    return "\n".join(
        [
            f"{about['cpu']}, {about['cores']} cores; torch {about['torch']}; {about['date']}",
            f"{result['model']}, {result['batch_size']} images a step on {result['device']}; "
            f"medians of {result['rounds']} rounds of {result['report_every']} steps, without and "
            "with in turn",
            f"step alone            {result['step_ms']:8.2f} ms",
            f"guard and metrics     {result['every_step']:+8.2%}     of it, in every step "
            f"({by_round['low']:+.2%} to {by_round['high']:+.2%} by round)",
            f"progress and metrics  {result['reports']:+8.2%}     {result['report_ms']:.2f} ms "
            f"every {result['report_every']:,} steps",
            f"panels                {result['panels']:+8.2%}     {result['panel_ms']:.0f} ms every "
            f"{result['panel_every']:,} steps",
            f"together              {result['together']:+8.2%}",
        ]
    )


def _local(config: Config) -> LogConfig:
    return config.log.model_copy(update={"wandb": False, "tensorboard": False})


def _now(device: torch.device) -> float:
    """Seconds; on CPUs those that this process has worked, whatever others do meanwhile."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
