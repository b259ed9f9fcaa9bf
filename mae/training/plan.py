"""What follows from the settings, the data and the processes that the launcher started."""

import math
import os
import shutil
from datetime import timedelta
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from mae.base.errors import UserError
from mae.config.sections import Config, TrainConfig
from mae.data.batch import BatchSharding
from mae.data.training_data import TrainingSource
from mae.evaluation.probing import PlannedSchedule
from mae.objectives.registry import declaration
from mae.training.fsdp2 import refuse_first_version
from mae.training.optim import lr_at, scaled_lr

MOST_PROCESSES = 1024
"""that a message names"""


class Plan(NamedTuple):
    """How a run goes."""

    sharding: BatchSharding
    num_samples: int
    steps: int
    lr: float
    """the peak, after warm-up"""
    flops_per_image: int = 0
    """forward and backward"""
    peak_flops: float | None = None
    """of one device, where that is known"""

    def epoch(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return step * self.sharding.batch_size / self.num_samples

    def lr_at(self, step: int, config: Config) -> float:
        """The learning rate of the step that follows `step` steps."""
        return lr_at(
            self.epoch(step),
            lr=self.lr,
            min_lr=config.optim.min_lr,
            warmup_epochs=config.optim.warmup_epochs,
            epochs=config.train.epochs,
        )


class Task(NamedTuple):
    """A run's settings, plan and training data."""

    config: Config
    plan: Plan
    data: TrainingSource


def local_processes() -> int:
    """Processes that the launcher started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def build_accelerator(config: TrainConfig, use_cpu: bool = False) -> Accelerator:
    """Devices and processes as the launcher gave them; UserError where they are not as asked.

    `use_cpu`: even where there are GPUs.
    """
    refuse_first_version()
    has_gpu = torch.cuda.is_available() and not use_cpu
    has_bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" and has_gpu and not has_bf16:
        raise UserError("train.precision: this GPU has no bf16; use fp32 or auto")
    local = local_processes()
    if has_gpu and local > torch.cuda.device_count():
        raise UserError(
            f"the launcher started {local} processes for {torch.cuda.device_count()} GPUs: use "
            "--num_processes (with CUDA_VISIBLE_DEVICES= the processes work on the CPU)"
        )
    if config.compile and not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        raise UserError("train.compile: needs a C compiler; install one, or train.compile=false")
    use_bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    accelerator = Accelerator(
        cpu=not has_gpu,
        mixed_precision="bf16" if use_bf16 else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            # So long the others wait for a first indexing, too; `mae index` beforehand may take
            # any time.
            InitProcessGroupKwargs(timeout=timedelta(minutes=config.timeout_minutes)),
        ],
    )
    accelerator.gradient_accumulation_steps = 1  # the loop accumulates; see `train`
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    for wanted, who in (
        (launched, "the launcher started"),
        (config.num_processes, "train.num_processes asks for"),
    ):
        if wanted and wanted != accelerator.num_processes:
            raise UserError(
                f"{who} {wanted} processes, but {accelerator.num_processes} work together "
                "(on CPUs: accelerate launch --multi_gpu --num_processes N)"
            )
    return accelerator


def make_plan(config: Config, num_samples: int, num_processes: int, process_index: int) -> Plan:
    """Steps, learning rate, and how the global batch is divided; UserError where it cannot be."""
    batch_size = config.train.batch_size
    if batch_size > num_samples:
        raise UserError(
            f"train.batch_size: {batch_size} images a step, but data.train has only {num_samples}"
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
    return Plan(
        BatchSharding(
            batch_size, num_processes, process_index, accumulation(config, num_processes)
        ),
        num_samples,
        steps=math.ceil(config.train.epochs * num_samples / batch_size),
        lr=scaled_lr(config.optim.blr, batch_size) if lr is None else lr,
    )


def planned(config: Config, num_samples: int) -> PlannedSchedule:
    """Schedule of a run on one process, as a probe's report records it."""
    plan = make_plan(config, num_samples, 1, 0)
    sharding = plan.sharding
    return PlannedSchedule(plan.steps, plan.lr, sharding.batch_size, sharding.device_batch)


def accumulation(config: Config, num_processes: int) -> int:
    """Number of micro-batches: the smallest whose images fit the device and the objective.

    UserError where there is none.
    """
    batch_size, most = config.train.batch_size, config.train.max_device_batch
    multiple, reason = declaration(config.objective).batch_multiple(config)
    found = _parts(batch_size // num_processes, most, multiple)
    if found is None:
        share = batch_size // num_processes
        at_once = share // (_parts(share, most, 1) or share)
        fitting = [
            n
            for n in range(1, min(batch_size, MOST_PROCESSES) + 1)
            if batch_size % n == 0 and _parts(batch_size // n, most, multiple)
        ]
        counts = ", ".join(map(str, fitting))
        works = f"; it works with {counts} process{'es' * (fitting != [1])}" if fitting else ""
        raise UserError(
            f"train.batch_size: {batch_size} gives each process {at_once} images at a time; "
            f"{reason}{works}"
        )
    return found


def _parts(share: int, most: int, multiple: int) -> int | None:
    """Smallest number of equal parts of at most `most` images, each a multiple of `multiple`."""
    return next(
        (
            n
            for n in range(1, share // multiple + 1)
            if share % (n * multiple) == 0 and share // n <= most
        ),
        None,
    )
