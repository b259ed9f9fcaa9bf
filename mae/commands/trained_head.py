"""Training and testing of a head on frozen encoders, on all processes that were launched."""

import argparse
import os
from pathlib import Path

import torch
from accelerate import PartialState

from mae.base.device import choose_device, prepare_gpus
from mae.base.errors import UserError
from mae.base.portion import launched_portion
from mae.commands import frozen_encoders
from mae.config.sections import Config
from mae.data.training_data import TrainingSource
from mae.evaluation.probing import ProbeRequest, claim_folder, on_first
from mae.evaluation.results import table
from mae.objectives.base import Objective
from mae.objectives.registry import declarations, implementation
from mae.training.plan import planned
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.train import destroy_process_group, train


def train_head(
    args: argparse.Namespace, command: str, title: str, name: str, needs_tokens: bool
) -> int:
    """Train and test the objective that `command` trains; the exit code.

    The first process tests, prints the table headed `title` and writes `name`.json.
    """
    lifecycle = RunLifecycle()

    def work() -> None:
        portion = launched_portion()
        _refuse_sharding(command)
        (declared,) = declarations(command)
        use_cpu = _use_cpu(args.device)
        processes = PartialState(cpu=use_cpu)
        log = portion.log
        comparison = frozen_encoders.open_comparison(args, log, portion, needs_tokens)

        def fit(
            config: Config, source: TrainingSource | None = None, followed_by: Path | None = None
        ) -> Objective:
            manifest = source.manifest if source else comparison.train.manifest
            on_first(portion, lambda: claim_folder(config, manifest, followed_by, log))
            objective = train(config, lifecycle, source=source, use_cpu=use_cpu)
            lifecycle.finish_run()
            return objective

        report = implementation(declared.name).probe(
            ProbeRequest(
                **vars(comparison),
                options=args,
                device=str(processes.device),
                portion=portion,
                fit=fit,
                plan=planned,
                log=log,
            )
        )
        destroy_process_group()
        if portion.joins:
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
    use_cpu = device == "cpu" or not torch.cuda.is_available()
    if not use_cpu:
        prepare_gpus()
    return use_cpu
