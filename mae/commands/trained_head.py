"""Training and testing of a head on frozen encoders, on all processes that were launched."""

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.commands import frozen_encoders
from mae.config.sections import Config
from mae.data.training_data import TrainingSource
from mae.evaluation.probing import ProbeRequest, claim_folder, on_first
from mae.evaluation.results import table
from mae.objectives.base import Objective
from mae.objectives.registry import declarations, implementation
from mae.training.launch import check_launch
from mae.training.plan import planned
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.train import destroy_process_group, train

PATIENCE = timedelta(hours=12)
"""time that processes wait for the first, which encodes cached tokens and tests alone"""


def train_head(
    args: argparse.Namespace, command: str, title: str, name: str, needs_tokens: bool
) -> int:
    """Train and test the objective that `command` trains; the exit code.

    The first process tests, prints the table headed `title` and writes `name`.json.
    """
    lifecycle = RunLifecycle()

    def work() -> None:
        check_launch(os.environ)
        _refuse_sharding(command)
        (declared,) = declarations(command)
        use_cpu = _use_cpu(args.device)
        processes = PartialState(cpu=use_cpu, timeout=PATIENCE)
        is_main = processes.is_main_process
        log = frozen_encoders.log if is_main else _log_nothing
        with processes.main_process_first():  # the first to come writes the indexes
            comparison = frozen_encoders.open_comparison(args, log, needs_tokens)

        def fit(
            config: Config, source: TrainingSource | None = None, followed_by: Path | None = None
        ) -> Objective:
            manifest = source.manifest if source else comparison.train.manifest
            on_first(lambda: claim_folder(config, manifest, followed_by, log), is_main, _share)
            objective = train(config, lifecycle, source=source, use_cpu=use_cpu)
            lifecycle.finish_run()
            return objective

        report = implementation(declared.name).probe(
            ProbeRequest(
                **vars(comparison),
                options=args,
                device=str(processes.device),
                num_processes=processes.num_processes,
                is_main=is_main,
                fit=fit,
                plan=planned,
                share=_share,
                log=log,
            )
        )
        destroy_process_group()
        if is_main:
            report = frozen_encoders.with_notes(
                report, [comparison.matched] * bool(comparison.matched)
            )
            out = args.out or comparison.folder / f"{name}.json"
            shown, opened = table(title, dict(report)), comparison.opened
            frozen_encoders.finish(
                args,
                out,
                report,
                shown,
                step=opened.step,
                seen=comparison.seen,
                weights=opened.lines,
            )

    return lifecycle.execute(work)


def _share(own: Any) -> Any:
    """The first process's value, on all of them."""
    return broadcast_object_list([own])[0]


def _refuse_sharding(command: str) -> None:
    """Raise UserError where the launcher shards weights: no process could test alone."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UserError(f"{command}: a head is too small to be sharded: launch it without FSDP")


def _use_cpu(device: str) -> bool:
    """--device of a command that trains; raises UserError for a single one of several GPUs."""
    if device not in ("auto", "cuda", "cpu"):
        choose_device(device)
        raise UserError(
            f"--device {device}: the launcher gives each process its GPU; choose among them by "
            "CUDA_VISIBLE_DEVICES"
        )
    if device == "cuda":
        choose_device(device)
    return device == "cpu" or not torch.cuda.is_available()


def _log_nothing(text: str) -> None:
    """Print nothing, on all processes but the first."""
