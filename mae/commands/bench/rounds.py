"""Measurement of cases in turn, each in a process of its own, with the device's peak rate."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from statistics import median
from types import TracebackType
from typing import NamedTuple, Self

import torch

from mae.base.errors import RunFailed, UserError
from mae.base.peak_flops import TERA
from mae.base.progress import ProgressLine
from mae.commands.bench.cases import Case
from mae.commands.bench.child import BUILDER, CEILING, OUT_OF_MEMORY
from mae.commands.bench.timing import interleaved, machine, ratios, spread
from mae.commands.bench.training_step import build_objective
from mae.objectives.registry import OBJECTIVES
from mae.training.flops import flops_per_image

LAST_LINES = 5
"""lines of a failed process's standard error that the message quotes"""

START = """
import json, runpy, sys
from mae.objectives.registry import OBJECTIVES
known, module, *sys.argv[1:] = sys.argv[1:]
OBJECTIVES.update(json.loads(known))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

Progress = Callable[[str, int, int], None]
"""called with the name of a measurement, rounds done, and their total"""


def silent(name: str, done: int, total: int) -> None:
    """Show no progress."""


def show_progress(name: str, done: int, total: int) -> None:
    """Show a line that counts rounds."""
    _line(name)(done, total)


@cache
def _line(name: str) -> ProgressLine:
    return ProgressLine(f"measuring {name}", "rounds")


class Effort(NamedTuple):
    """Length of a measurement."""

    rounds: int = 5
    seconds: float = 2.0
    """approximate seconds of each case in a round"""
    at_once: int = 1
    """maximum number of processes that warm up at the same time"""
    sizes: Sequence[int] | None = None
    """sides of the matrices that the peak rate is measured with (default: the device's)"""


USUAL = Effort()
QUICK = Effort(rounds=2, seconds=0.2)


def effort_of(args: argparse.Namespace) -> Effort:
    """Effort of the options --rounds, --seconds, --at-once and --quick."""
    chosen = Effort(rounds=args.rounds, seconds=args.seconds)
    return (QUICK if args.quick else chosen)._replace(at_once=args.at_once)


def environment(device: str) -> dict[str, str]:
    """Environment variables with which a process trains on `device`."""
    if not device.startswith("cuda"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    index = device.partition(":")[2]
    return {"CUDA_VISIBLE_DEVICES": index} if index else {}


def about(device: str, effort: Effort | None = None) -> dict:
    """Machine, device, threads and rounds of a measurement."""
    rounds = {"rounds": effort.rounds, "seconds_per_round": effort.seconds} if effort else {}
    return {
        "machine": machine(),
        "device": "cuda" if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        **rounds,
    }


def measure(
    cases: Sequence[Case],
    effort: Effort,
    environment: dict[str, str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    builder: str = BUILDER,
) -> list[dict]:
    """Measure the cases in turn; a row for each: the case, rates, memory, seconds of a step.

    All processes exist at the same time and all but one are idle, so that other load on the machine
    affects all cases alike.  `ratio` is the speed per image relative to the first case, round by
    round.  A case that runs out of memory has `error` instead of numbers.  `builder`: module that
    builds the steps, see `child`.  Raises UserError for invalid cases, RunFailed where a process
    fails.
    """
    flops = [gflop_per_image(case) * 1e9 for case in cases]  # before any process starts
    names = [str(number) for number in range(len(cases))]
    tasks = {name: case._asdict() for name, case in zip(names, cases, strict=True)}
    precision = cases[0].config().train.precision
    ceiling = {CEILING: {CEILING: effort.sizes, "precision": precision}}
    results: dict[str, list[dict]] = {name: [] for name in [CEILING, *names]}
    with Children(ceiling | tasks, environment, effort.at_once, builder) as children:

        def turn(name: str) -> float:
            results[name].append(children[name].round(effort.seconds))
            return 0.0

        turns = {name: partial(turn, name) for name in results}
        interleaved(turns, effort.rounds, progress)
        missing = {name for name, child in children.items() if child.is_out_of_memory}
    if CEILING in missing:
        raise RunFailed("bench: no memory left for the matrices of the ceiling")
    peaks = [one["flops"] for one in results[CEILING][1:]]
    rows = []
    first: list[float] = []
    for name, case, work in zip(names, cases, flops, strict=True):
        if name in missing:
            rows.append({**case._asdict(), "error": OUT_OF_MEMORY})
            continue
        counted = results[name][1:]
        seconds = [one["seconds"] for one in counted]
        per_image = [one / case.batch_size for one in seconds]
        first = first or per_image
        rows.append(
            {
                **case._asdict(),
                **rates(case.batch_size, work, seconds, peaks),
                "ratio": spread(ratios(first, per_image)),
                "memory": max((one["memory"] or 0 for one in counted), default=0) or None,
                "seconds": seconds,
                "cpu_seconds": [one["cpu_seconds"] for one in counted],
            }
        )
    return rows


def rates(batch_size: int, flops: float, seconds: Sequence[float], peaks: Sequence[float]) -> dict:
    """Images and operations per second of steps that took `seconds`, in the rounds of `peaks`.

    `flops`: FLOP per image of our implementation, used for all implementations: further operations
    for the same result earn no higher MFU.
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
    """GFLOP of forward and backward pass of our implementation, per image."""
    config = case.config()
    with torch.device("meta"):  # shapes only: the weights of large models take seconds to fill
        objective = build_objective(config)
    return flops_per_image(objective, config.data.in_chans) / 1e9


def command(module: str, *arguments: str) -> list[str]:
    """Command line of `python -m module`, with the objectives registered in this process."""
    return [sys.executable, "-c", START, json.dumps(OBJECTIVES), module, *arguments]


class Child:
    """Handle of one measuring process, which builds and warms up its case in the background."""

    def __init__(
        self, task: Mapping, environment: Mapping[str, str], builder: str = BUILDER
    ) -> None:
        """Start `child.serve(task, …, builder)`; `environment`: additional variables."""
        self.is_out_of_memory = False
        """it answers no further rounds"""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self.process = subprocess.Popen(
            command("mae.commands.bench.child", json.dumps(task), builder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_until_ready(self) -> None:
        """Wait until the case is warmed up, or out of memory.  Raises UserError, RunFailed."""
        self._answer()

    def round(self, seconds: float) -> dict:
        """Result of one round of about `seconds`; empty where the case is out of memory."""
        if self.is_out_of_memory:
            return {}
        assert self.process.stdin
        with suppress(BrokenPipeError):  # reading the answer finds out why
            print(seconds, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "error" not in answer:
                return answer
            if answer["error"] != OUT_OF_MEMORY:
                raise UserError(answer["error"])
        elif (code := self.process.wait()) != -signal.SIGKILL:
            self.log.seek(0)
            last = " | ".join(self.log.read().strip().splitlines()[-LAST_LINES:])
            raise RunFailed(f"bench: a measuring process ended with code {code}: {last}")
        # Answered by the process, or killed by the system.
        self.is_out_of_memory = True
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()


class Children:
    """Measuring processes by name; at most `at_once` of them warm up at the same time."""

    def __init__(
        self,
        tasks: Mapping[str, Mapping],
        environment: Mapping[str, str],
        at_once: int,
        builder: str = BUILDER,
    ) -> None:
        self.stack = ExitStack()
        self.by_name: dict[str, Child] = {}
        try:
            for name, task in tasks.items():
                started = list(self.by_name.values())
                if len(started) >= at_once:
                    started[-at_once].wait_until_ready()
                self.by_name[name] = self.stack.enter_context(Child(task, environment, builder))
            for child in list(self.by_name.values())[-at_once:]:
                child.wait_until_ready()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> dict[str, Child]:
        return self.by_name

    def __exit__(self, *details: object) -> None:
        self.stack.close()
