"""Cost of guard, metrics and panels in a training step: `python -m benchmarks.overhead`.

Measured on synthetic images with the model of a config file.
"""

import argparse
import contextlib
import io
import math
import sys
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
from mae.base.exit_status import exit_code
from mae.commands.argument_types import positive
from mae.commands.bench.command import out_option
from mae.commands.bench.tables import write_result
from mae.commands.bench.timing import machine, spread
from mae.commands.bench.training_step import build_objective, synthetic_batch
from mae.config.loading import load_config
from mae.config.sections import Config, LogConfig
from mae.data.batch import BatchSharding
from mae.objectives.registry import declaration
from mae.pictures.drawing import save_png
from mae.training.checkpoint.run import Run
from mae.training.evaluator import draw_panel, draws_panels
from mae.training.meter import Meter
from mae.training.optim import OptimizerStep
from mae.training.plan import PANEL_EVERY, Plan, build_accelerator, intervals
from mae.training.safety.guard import Guard
from mae.training.safety.step_flags import StepFlagReducer, StepFlags
from mae.training.step import Learner, Step, build_learner, train_step
from mae.training.tracking.progress_line import metrics_row, progress_line
from mae.training.tracking.tracker import Clock, Tracker

STEPS = 10**6
"""steps of the imaginary run that the measured steps are part of"""


class MonitoredStep:
    """Training steps on synthetic images, with or without what the loop does beside them."""

    def __init__(self, config: Config, learner: Learner, tracker: Tracker) -> None:
        self.config, self.learner, self.tracker = config, learner, tracker
        self.device, self.size = learner.accelerator.device, config.train.batch_size
        self.declared = declaration(config.objective)
        self.batch = synthetic_batch(config, learner.objective.img_size, self.size)
        self.plan = Plan(
            BatchSharding(self.size, 1, 0, 1),
            num_samples=STEPS,
            steps=STEPS,
            lr=1e-4,
            intervals=intervals(config, STEPS),
        )
        self.flag_reducer, self.guard = StepFlagReducer(timedelta(minutes=1)), Guard(config.guard)
        self.meter, self.clock = Meter.of(self.device, self.declared), Clock()
        self.done = 0

    def step(self, is_monitored: bool) -> float:
        """Run the next step, with guard, meter and agreement of processes or bare; its seconds."""
        self.done += 1
        place = Step(self.done, STEPS, self.plan.lr)

        def bare() -> None:
            train_step(self.learner, [self.batch], place)

        def monitored() -> None:
            train_step(self.learner, [self.batch], place, self.meter)
            self.flag_reducer.reduce(StepFlags())

        if is_monitored:
            return self.seconds(monitored)
        with patch.object(mae.training.step, "take_step", UnguardedStep(self.device)):
            return self.seconds(bare)

    def report(self) -> float:
        """Report as `Monitor.report` does; its seconds."""
        accelerator = self.learner.accelerator

        def work() -> None:
            totals = self.meter.read(lambda sums, how: accelerator.reduce(sums, reduction=how))
            self.guard.evaluate(totals.steps)
            row = metrics_row(
                totals,
                self.declared,
                clock=self.clock,
                done=self.done,
                lr=self.plan.lr,
                plan=self.plan,
                device=self.device,
            )
            row |= {"bad": 0, "skipped": self.guard.skipped}
            line = progress_line(row, self.plan.steps, self.size, self.declared)
            self.tracker.report(row, line)

        with contextlib.redirect_stdout(io.StringIO()):
            return self.seconds(work)

    def panel(self) -> float:
        """Draw a panel as `Evaluator` does; its seconds, 0 where the objective has no panels."""
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
            self.tracker.log_picture("panel", path, self.done)

        return self.seconds(work) if draws_panels(self.config, objective) else 0.0

    def seconds(self, work: Callable[[], None]) -> float:
        """Run `work`; returns its duration."""
        start = _now(self.device)
        work()
        return _now(self.device) - start


class UnguardedStep:
    """Replacement of `take_step` in a bare step: it skips no step; norms only for clipping."""

    def __init__(self, device: torch.device) -> None:
        zero = torch.zeros((), device=device)
        self.taken = OptimizerStep(zero, zero.bool())

    def __call__(self, optimizer: Optimizer, clip_grad: float) -> OptimizerStep:
        """Do the optimizer step."""
        if clip_grad:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return self.taken


def bench_overhead(config: Config, rounds: int) -> dict:
    """Measure steps of the model of `config` on synthetic images, bare and monitored in turn.

    A round has `log.every` steps of each kind, one report and one panel; these two count as their
    share of `log.every` and `log.panel_every` steps.  The result can be written as JSON.  Raises
    UserError for settings that need training data.
    """
    accelerator = build_accelerator(config.train)
    learner = new_learner(config, accelerator)
    millions = sum(p.numel() for p in learner.objective.parameters() if p.requires_grad) / 1e6
    about = declaration(config.objective).describe(config, f"{millions:.1f} M parameters")
    off: list[list[float]] = []
    on: list[list[float]] = []
    reports, panels = [], []
    with tempfile.TemporaryDirectory(prefix="mae-bench-") as folder:
        run = Run(folder)
        run.panels.mkdir()
        local = config.model_copy(update={"log": _local(config)})
        monitored = MonitoredStep(config, learner, Tracker(run, local, is_main=True))
        for _ in range(rounds + 1):
            both: list[list[float]] = [[], []]
            for number in range(2 * config.log.every):
                is_monitored = bool(number % 2)
                both[is_monitored].append(monitored.step(is_monitored))
            off.append(both[0])
            on.append(both[1])
            reports.append(monitored.report())
            panels.append(monitored.panel())
    return {
        "machine": machine(),
        "device": str(accelerator.device),
        "model": about,
        "batch_size": config.train.batch_size,
        "rounds": rounds,
        "report_every": config.log.every,
        "panel_every": panel_every(config.log),
        **shares_of(off[1:], on[1:], reports[1:], panels[1:], config.log),
    }


def panel_every(log: LogConfig) -> int:
    """Steps between panels, of a long run where they are not set; 0: none."""
    return PANEL_EVERY if log.panel_every is None else log.panel_every


def new_learner(config: Config, accelerator: Accelerator) -> Learner:
    """Learner of a newly initialised model of `config`, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        objective = build_objective(config)
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
    """Added time as shares of a bare step.

    `off`, `on`: seconds of bare and of monitored steps, by round.  `reports`, `panels`: seconds of
    a report and of a panel, by round.
    """
    bare = median([one for each in off for one in each])
    added = [(median(b) - median(a)) / bare for a, b in zip(off, on, strict=True)]
    shares = {
        "every_step": median(added),
        "reports": median(reports) / log.every / bare,
        "panels": median(panels) / (panel_every(log) or math.inf) / bare,
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
    """Plain-text table of the added time."""
    about, by_round = result["machine"], result["every_step_by_round"]
    return "\n".join(
        [
            f"{about['cpu']}, {about['cores']} cores; torch {about['torch']}; {about['date']}",
            f"{result['model']}, {result['batch_size']} images a step on {result['device']}; "
            f"medians of {result['rounds']} rounds of {result['report_every']} steps, without and "
            "with monitoring in turn",
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
    return config.log.model_copy(update={"trackers": ()})


def _now(device: torch.device) -> float:
    """Time in seconds; on a CPU this process's CPU time, which other load does not change."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("config", help="config file, such as configs/demo_digits.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="settings that override it"
    )
    parser.add_argument(
        "--rounds", type=positive, default=21, help="rounds of bare and monitored steps in turn"
    )
    out_option(parser)
    args = parser.parse_args(argv)

    def work() -> None:
        result = bench_overhead(load_config(args.config, args.settings), args.rounds)
        write_result(args.out, result, overhead_table(result))

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
