"""Cases measured in turn, round by round, each in its own process, beside the device's ceiling."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from mae.base.errors import RunFailed
from mae.bench.cases import Case
from mae.bench.child import CEILING, OUT_OF_MEMORY
from mae.bench.children import CHILD, Children
from mae.bench.synthetic import build
from mae.bench.timing import interleaved, ratios, spread
from mae.training.flops import TERA, flops_per_image


class Effort(NamedTuple):
    """Length of a measurement."""

    rounds: int = 5
    seconds: float = 2.0
    """of each case in a round, about"""
    at_once: int = 1
    """processes made ready at the same time"""
    sizes: Sequence[int] | None = None
    """of the ceiling's matrices (None: the device's)"""


USUAL = Effort()


def measure(
    cases: Sequence[Case],
    effort: Effort,
    environment: dict[str, str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    module: str = CHILD,
) -> list[dict]:
    """A row for each case: what it is, its rates, memory, seconds of a step in each round.

    All processes are alive together, resting but one: what a machine does meanwhile it does to
    all.  `ratio` is how many times as fast as the first case an image is done, round by round.  A
    case that does not fit has `error` instead of numbers.  `module`: program of the processes.
    Raises UserError for a case that cannot be had, RunFailed where a process fails.
    """
    flops = [gflop_per_image(case) * 1e9 for case in cases]  # before anything is started
    names = [str(number) for number in range(len(cases))]
    whats = {name: case._asdict() for name, case in zip(names, cases, strict=True)}
    precision = cases[0].config().train.precision
    ceiling = {CEILING: {CEILING: effort.sizes, "precision": precision}}
    found: dict[str, list[dict]] = {name: [] for name in [CEILING, *names]}
    with Children(ceiling | whats, environment, effort.at_once, module) as children:

        def turn(name: str) -> float:
            found[name].append(children[name].round(effort.seconds))
            return 0.0

        tasks = {name: partial(turn, name) for name in found}
        interleaved(tasks, effort.rounds, progress)
        missing = {name for name, child in children.items() if child.is_out_of_memory}
    if CEILING in missing:
        raise RunFailed("bench: no memory left for the matrices of the ceiling")
    peaks = [one["flops"] for one in found[CEILING][1:]]
    rows = []
    first: list[float] = []
    for name, case, work in zip(names, cases, flops, strict=True):
        if name in missing:
            rows.append({**case._asdict(), "error": OUT_OF_MEMORY})
            continue
        seconds = [one["seconds"] for one in found[name][1:]]
        each = [one / case.batch_size for one in seconds]
        first = first or each
        rows.append(
            {
                **case._asdict(),
                **rates(case.batch_size, work, seconds, peaks),
                "ratio": spread(ratios(first, each)),
                "memory": max((one["memory"] or 0 for one in found[name][1:]), default=0) or None,
                "seconds": seconds,
                "cpu_seconds": [one["cpu_seconds"] for one in found[name][1:]],
            }
        )
    return rows


def rates(batch_size: int, flops: float, seconds: Sequence[float], peaks: Sequence[float]) -> dict:
    """Images and operations per second of steps that took `seconds`, in the rounds of `peaks`.

    `flops`: per image, of our implementation for all: who does more for the same result is not
    credited with it.
    """
    images = [batch_size / one for one in seconds]
    shares = [rate * flops / peak for rate, peak in zip(images, peaks, strict=True)]
    return {
        "images_per_s": spread(images),
        "gflop_per_image": flops / 1e9,
        "tflop_per_s": median(images) * flops / TERA,
        "ceiling_tflop_per_s": median(peaks) / TERA,
        "mfu": spread(shares),
    }


def gflop_per_image(case: Case) -> float:
    """Forward and backward of our implementation."""
    config = case.config()
    with torch.device("meta"):  # shapes only: the largest take seconds to fill with numbers
        objective = build(config)
    return flops_per_image(objective, config.data.in_chans) / 1e9
