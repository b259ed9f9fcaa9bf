"""Going on where a run stands, or from before the place where it went wrong."""

import shutil
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from mae.base.errors import UserError
from mae.data.manifest import Manifest
from mae.objectives.base import Objective
from mae.training.average import Average
from mae.training.checkpoint import Position, newest_checkpoint
from mae.training.restore import load_average, load_model, load_optimizer
from mae.training.retention import forget_after, set_aside
from mae.training.run import Run


class Resumed(NamedTuple):
    """Where the run goes on, and what there is to tell."""

    position: Position
    notes: list[str]


def resume(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    manifest: Manifest,
    accelerator: Accelerator,
    before: int | None = None,
    average: Average | None = None,
) -> Resumed:
    """Load the newest intact checkpoint, if there is one; with `before`, one of an earlier step.

    Without one, `average` begins at the weights as they are now.

    All processes call it, when nothing is being written, and after `accelerator.prepare`: the
    optimizer of a sharded model takes its state only then.  The first process chooses for all;
    it rewinds the run folder to the step that was chosen, and of damaged checkpoints that are
    newer keeps the newest, as step-….damaged.  Raises UserError, and leaves all as it was, where
    the data is not that of the checkpoint, or another process sees other data or no such
    checkpoint (folders that are not shared between machines), where one is met that cannot be
    read or is of a newer version, where no intact one is as early as asked, or where it has a
    moving average and the run has none (train.ema), or the reverse.
    """
    found, problem = None, None
    if accelerator.is_main_process:
        try:
            found = newest_checkpoint(run.checkpoints, before)
            if before is not None and found is None:
                problem = (
                    f"{run.checkpoints}: no checkpoint of before step {before:,} to go back to"
                )
        except UserError as error:
            problem = str(error)
    damaged = found.damaged if found else {}
    chosen = [problem, found and found.path.name, found and found.position, manifest.fingerprint]
    problem, name, position, fingerprint = broadcast_object_list(chosen)
    if problem:
        raise UserError(problem)
    if fingerprint != manifest.fingerprint:
        raise UserError("data.train: not the same samples on all machines")
    if position:
        path = run.checkpoints / name
        if position.data != manifest.fingerprint:
            raise UserError(
                f"data.train: not the samples that {path} was trained on "
                f"(fingerprint {manifest.fingerprint[:16]}, then {position.data[:16]})"
            )
        if not path.is_dir():
            raise UserError(f"output: {run.folder} is not the same folder on all machines")
        load_average(path, objective, average)
        load_model(path, objective)
        load_optimizer(path, objective, optimizer)
    elif average is not None:
        average.restart()
    position = position or Position(0, 0, manifest.fingerprint)
    kept = None
    if accelerator.is_main_process:
        run.rewind_metrics(position.step)
        kept = set_aside(run.checkpoints, damaged)
        forget_after(run.checkpoints, position.step)  # written again when the run gets there
        for leftover in run.checkpoints.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    accelerator.wait_for_everyone()  # all read in the folder what the first has left there
    notes = [
        f"damaged {reason}; {f'kept as {kept.name}' if kept and kept.stem == path.name else 'gone'}"
        f"; going on from {name}"
        for path, reason in damaged.items()
    ]
    return Resumed(position, notes)
