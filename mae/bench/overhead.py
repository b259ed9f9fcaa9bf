"""`mae bench overhead`: what guard, metrics and panels add to the step of a run."""

import contextlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median

import torch

from mae.bench.timing import machine, spread
from mae.config import Config, LogConfig
from mae.data.loader import Batch, Slices
from mae.models.mae import MaskedAutoencoder
from mae.panels import Panel, draw_panel
from mae.training.control import Control, Wishes
from mae.training.feeding import Feed, forward
from mae.training.guard import Guard, skip_if_not_finite
from mae.training.meter import Meter
from mae.training.optim import build_optimizer, set_lr
from mae.training.plan import Plan, build_accelerator
from mae.training.progress import measure, progress_line
from mae.training.run import Run, build_objective
from mae.training.sharding import prepare
from mae.training.tracking import Clock, Tracker


def bench_overhead(config: Config, rounds: int) -> dict:
    """Steps of the model that `config` describes on synthetic images, with all that off and on.

    Steps come in turn, one without and one with.  Report and panel are timed once a round, and
    count as their share of log.every and log.panel_every steps.  The result is ready for JSON.
    """
    accelerator = build_accelerator(config.train)
    device, size = accelerator.device, config.train.batch_size
    objective = build_objective(config).to(device)
    assert isinstance(objective, MaskedAutoencoder)
    optimizer = build_optimizer(objective, config.optim)
    model, optimizer = prepare(objective, optimizer, accelerator)
    shape = (size, config.model.in_chans, *objective.img_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    words = torch.arange(size)
    batch = Batch(images, words, words, words, [])
    plan = Plan(Slices(size, 1, 0, 1), num_samples=10**6, steps=10**6, lr=1e-4)
    shown = config.log.panel_images
    panel = Panel(images[:shown], words[:shown], "synthetic images")
    control, guard = Control(timedelta(minutes=1)), Guard(config.guard)
    feed, meter, clock = Feed(device), Meter(device), Clock()
    done = 0

    def step(is_watched: bool) -> None:
        nonlocal done
        done += 1
        set_lr(optimizer, plan.lr)
        output = forward(model, objective, feed, batch)
        accelerator.backward(output.loss)
        if is_watched:
            meter.add(output)
            meter.end_step(done, skip_if_not_finite(optimizer.optimizer))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if is_watched:
            control.agree(Wishes())

    def report() -> None:
        totals = meter.read(lambda sums: accelerator.reduce(sums, reduction="mean"))
        guard.judge(totals.steps)
        row = measure(totals, objective, clock, done, plan.lr, plan, device)
        row |= {"bad": 0, "skipped": guard.skipped}
        tracker.report(row, progress_line(row, plan.steps, size))

    def seconds(work: Callable[[], None]) -> float:
        began = _now(device)
        work()
        return _now(device) - began

    off: list[list[float]] = []
    on: list[list[float]] = []
    reports, panels = [], []
    with tempfile.TemporaryDirectory(prefix="mae-bench-") as folder:
        run = Run(folder)
        run.panels.mkdir()
        tracker = Tracker(run, config.model_copy(update={"log": _local(config)}), is_main=True)
        for _ in range(rounds + 1):
            both: list[list[float]] = [[], []]
            for number in range(2 * config.log.every):
                is_watched = bool(number % 2)
                optimizer.optimizer.found_inf = None  # pyrefly: ignore  # the last step's
                both[is_watched].append(seconds(lambda on=is_watched: step(on)))
            off.append(both[0])
            on.append(both[1])
            with contextlib.redirect_stdout(io.StringIO()):
                reports.append(seconds(report))
            panels.append(seconds(lambda: draw_panel(panel, objective, run, tracker, done, device)))
    return {
        "machine": machine(),
        "device": str(device),
        "encoder": config.model.encoder,
        "batch_size": size,
        "rounds": rounds,
        "report_every": config.log.every,
        "panel_every": config.log.panel_every,
        **shares_of(off[1:], on[1:], reports[1:], panels[1:], config.log),
    }


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
            f"{result['encoder']}, {result['batch_size']} images a step on {result['device']}; "
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
