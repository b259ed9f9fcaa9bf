"""Resolved schedule of a run: processes and precision, batch sharding, steps, learning rate."""

import math
import os
from datetime import timedelta
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from mae.base.device import prepare_gpus
from mae.base.errors import UserError
from mae.base.machine import compiler
from mae.config.choices import power_of_two
from mae.config.recipes import AUTO, AUTO_COMMAND
from mae.config.sections import Config, TrainConfig
from mae.data.batch import BatchSharding
from mae.data.training_data import TrainingSource
from mae.evaluation.probing import PlannedSchedule
from mae.objectives.registry import declaration
from mae.training.fsdp2 import refuse_fsdp1
from mae.training.optim import lr_at, scaled_lr

MAX_PROCESSES_NAMED = 1024
"""largest number of processes that an error message suggests"""


CHECKPOINT_EVERY, CHECKPOINTS = 500, 5
"""default of train.checkpoint_every, and the smallest number of checkpoints of a run"""
PANEL_EVERY, PANELS = 1000, 10
"""default of log.panel_every, and the smallest number of panels"""
HEALTH_EVERY, EVALUATIONS = 10.0, 5
"""default of log.health_every, and the smallest number of evaluations"""


class Intervals(NamedTuple):
    """Resolved intervals of what a run does now and then."""

    checkpoint: int
    """optimizer steps between checkpoints"""
    panel: int
    """optimizer steps between panels; 0: only one at the end"""
    health: float
    """epochs between evaluations on held-out images; 0: none"""

    def recorded_in(self, config: Config) -> Config:
        """The settings with these numbers."""
        train = config.train.model_copy(update={"checkpoint_every": self.checkpoint})
        own = {"panel_every": self.panel, "health_every": self.health}
        log = config.log.model_copy(update=own)
        return config.model_copy(update={"train": train, "log": log})


def intervals(config: Config, steps: int) -> Intervals:
    """The intervals that are set; else the default, or that share of a short run of `steps`."""
    train, log = config.train, config.log
    checkpoint = min(CHECKPOINT_EVERY, -(-steps // CHECKPOINTS))
    panel = min(PANEL_EVERY, -(-steps // PANELS))
    health = min(HEALTH_EVERY, train.epochs / EVALUATIONS)
    return Intervals(
        checkpoint if train.checkpoint_every is None else train.checkpoint_every,
        panel if log.panel_every is None else log.panel_every,
        health if log.health_every is None else log.health_every,
    )


class Plan(NamedTuple):
    """Resolved schedule: batch sharding, steps, peak learning rate."""

    sharding: BatchSharding
    num_samples: int
    """images in the training data"""
    steps: int
    """optimizer steps of the run"""
    lr: float
    """peak learning rate, after warm-up"""
    intervals: Intervals
    flops_per_image: int = 0
    """operations of forward and backward pass"""
    peak_flops: float | None = None
    """peak operations per second of one device; None: unknown"""

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps, fractional."""
        return step * self.sharding.batch_size / self.num_samples

    def lr_at(self, step: int, config: Config) -> float:
        """Learning rate of step `step` + 1."""
        return lr_at(
            self.epoch(step),
            lr=self.lr,
            min_lr=config.optim.min_lr,
            warmup_epochs=config.optim.warmup_epochs,
            epochs=config.train.epochs,
        )


class TrainingSetup(NamedTuple):
    """Settings, plan and training data of a run."""

    config: Config
    plan: Plan
    data: TrainingSource


def build_accelerator(config: TrainConfig, use_cpu: bool = False) -> Accelerator:
    """Build the accelerator for the processes, devices and precision of this launch.

    `use_cpu`: ignore GPUs.  Raises UserError where processes, devices, precision or compiler do
    not match the settings or the launcher.
    """
    refuse_fsdp1()
    has_gpu = torch.cuda.is_available() and not use_cpu
    has_bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" and has_gpu and not has_bf16:
        raise UserError("train.precision: this GPU has no bf16; use fp32 or auto")
    if has_gpu:
        prepare_gpus()
    if config.compile and compiler() is None:
        raise UserError("train.compile: needs a C compiler; install one, or train.compile=false")
    use_bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    accelerator = Accelerator(
        cpu=not has_gpu,
        mixed_precision="bf16" if use_bf16 else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            # The other processes wait this long for the first indexing, too; `mae index` run
            # beforehand has no limit.
            InitProcessGroupKwargs(timeout=timedelta(minutes=config.timeout_minutes)),
        ],
    )
    accelerator.gradient_accumulation_steps = 1  # `train_step` accumulates itself
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    for expected, source in (
        (launched, "the launcher started"),
        (config.num_processes, "train.num_processes asks for"),
    ):
        if expected and expected != accelerator.num_processes:
            raise UserError(
                f"{source} {expected} processes, but {accelerator.num_processes} work together "
                "(on CPUs: mae pretrain … --processes N, or accelerate launch --multi_gpu)"
            )
    return accelerator


def make_plan(config: Config, num_samples: int, num_processes: int, process_index: int) -> Plan:
    """Compute steps, peak learning rate and batch sharding.

    Raises UserError where the batch is larger than the data, or batch or lanes cannot be divided
    among the processes.
    """
    batch_size = config.train.batch_size
    if batch_size > num_samples:
        raise UserError(
            f"train.batch_size: {batch_size} images a step, but data.train has only {num_samples}: "
            f"{_remedy(config, num_samples, num_processes)}"
        )
    if batch_size % num_processes:
        fitting = [n for n in range(1, 4 * num_processes) if batch_size % n == 0]
        raise UserError(
            f"train.batch_size: {batch_size} does not divide among {num_processes} processes; "
            f"it does among {', '.join(map(str, fitting))}"
        )
    lanes = config.data.lanes
    if config.data.order == "lanes" and lanes % num_processes:
        fitting = [n for n in range(1, lanes + 1) if lanes % n == 0 and batch_size % n == 0]
        raise UserError(
            f"data.lanes: {lanes} do not divide among {num_processes} processes; "
            f"they do among {', '.join(map(str, fitting))}"
        )
    lr = config.optim.lr
    steps = math.ceil(config.train.epochs * num_samples / batch_size)
    return Plan(
        BatchSharding(
            batch_size, num_processes, process_index, accumulation(config, num_processes)
        ),
        num_samples,
        steps=steps,
        lr=scaled_lr(config.optim.blr, batch_size) if lr is None else lr,
        intervals=intervals(config, steps),
    )


def _remedy(config: Config, num_samples: int, num_processes: int) -> str:
    if num_samples < num_processes:
        return f"too few for {num_processes} processes"
    smaller = f"try train.batch_size={fitting_batch(num_samples, num_processes)}"
    if not declaration(config.objective).has_rules or config.auto.chosen:
        return smaller
    return f"{smaller}, or {AUTO_COMMAND} {AUTO}, which chooses all settings for these images"


def fitting_batch(num_samples: int, num_processes: int) -> int:
    """Batch for a data set of so many images: an eighth of them, rounded to a power of two."""
    return max(1, power_of_two(num_samples / 8) // num_processes) * num_processes


def planned(config: Config, num_samples: int) -> PlannedSchedule:
    """Schedule of a run on one process, as a probe's report records it."""
    plan = make_plan(config, num_samples, 1, 0)
    sharding = plan.sharding
    return PlannedSchedule(plan.steps, plan.lr, sharding.batch_size, sharding.device_batch)


def accumulation(config: Config, num_processes: int) -> int:
    """Smallest number of micro-batches that the device and the objective allow.

    Raises UserError where there is none.
    """
    batch_size, most = config.train.batch_size, config.train.max_device_batch
    multiple, reason = declaration(config.objective).batch_multiple(config)
    count = _smallest_split(batch_size // num_processes, most, multiple)
    if count is None:
        share = batch_size // num_processes
        at_once = share // (_smallest_split(share, most, 1) or share)
        fitting = [
            n
            for n in range(1, min(batch_size, MAX_PROCESSES_NAMED) + 1)
            if batch_size % n == 0 and _smallest_split(batch_size // n, most, multiple)
        ]
        counts = ", ".join(map(str, fitting))
        works = f"; it works with {counts} process{'es' * (fitting != [1])}" if fitting else ""
        raise UserError(
            f"train.batch_size: {batch_size} gives each process {at_once} images at a time; "
            f"{reason}{works}"
        )
    return count


def _smallest_split(share: int, most: int, multiple: int) -> int | None:
    """Smallest number of equal parts of at most `most` images, each a multiple of `multiple`."""
    return next(
        (
            n
            for n in range(1, share // multiple + 1)
            if share % (n * multiple) == 0 and share // n <= most
        ),
        None,
    )
