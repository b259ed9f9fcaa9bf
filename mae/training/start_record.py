"""Record of a run's starts: written at each, and compared with the earlier ones."""

from typing import Any

import numpy as np

from mae.base.errors import UserError
from mae.base.exit_status import append_event, clear_exit_status
from mae.base.files import write_json
from mae.data.class_names import check_kept_names, write_class_names
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest, labels_digest
from mae.decoding.pixels import EXTENSIONS
from mae.objectives.base import Objective
from mae.objectives.registry import declaration
from mae.pretrained_weights.init_record import InitialWeights
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import keep_first_stage
from mae.training.environment import describe_start
from mae.training.evaluator import EvaluationImages
from mae.training.folders import RECORD, recorded_folders
from mae.training.plan import TrainingSetup
from mae.training.safety.findings import cautions

COUNTED = 20_000_000
"""largest number of images whose formats and labels are counted at each start"""


def refuse_shorter_run(run: Run, setup: TrainingSetup) -> None:
    """Raise UserError where the run has more steps already than its plan: it cannot go back."""
    stands, steps = run.newest_step() or 0, setup.plan.steps
    if stands > steps:
        raise UserError(
            f"train.epochs: {setup.config.train.epochs:g} are {steps:,} steps, but {run.folder} "
            f"stands at step {stands:,}: raise it, or choose another output for a shorter run"
        )


def check_labels_of_run(run: Run, manifest: Manifest) -> None:
    """Raise UserError where a run that is resumed was started with other labels or class names."""
    check_kept_names(manifest.class_names, run.folder, "data.train")
    before = run.last_start().get("labels")
    if before not in (None, labels_digest(manifest)):
        raise UserError(
            f"data.train: not the labels that {run.folder} was trained on; restore them, or choose "
            "another output for a new run"
        )


def open_folder(
    run: Run,
    setup: TrainingSetup,
    objective: Objective,
    evaluated: EvaluationImages,
    initial: InitialWeights | None,
) -> list[str]:
    """Open the run folder and write what belongs to its start; notes for the user."""
    notes = run.open(setup.config)
    notes += compare_held_out(run, evaluated)
    keep_first_stage(objective, run.folder)
    write_class_names(setup.data.manifest.class_names, run.folder)
    if initial:
        write_json(run.folder / "init.json", initial.record)
    clear_exit_status(run.folder)
    return notes


def compare_held_out(run: Run, evaluated: EvaluationImages) -> list[str]:
    """Line where a run that is resumed was evaluated on other held-out images or labels before."""
    before, now = run.last_start().get("held_out"), held_out_digest(evaluated)
    if before in (None, now) or now is None:
        return []
    return [
        "warning: data.val holds other images or labels than at the last start: held-out results "
        "from here on are not comparable with the earlier ones"
    ]


def held_out_digest(evaluated: EvaluationImages) -> str | None:
    """Digest of the held-out images and their labels; None where none are evaluated."""
    if evaluated.held_out is None:
        return None
    manifest = evaluated.held_out.manifest
    return f"{manifest.fingerprint[:32]}-{labels_digest(manifest)[:32]}"


def describe_data(manifest: Manifest, evaluated: EvaluationImages) -> dict[str, Any]:
    """Facts on the images of a run, for its report."""
    facts: dict[str, Any] = {
        "images": len(manifest),
        "shards": len(manifest.shards),
        "shard_bytes": int(manifest.shard_bytes.sum()),
    }
    if len(manifest) <= COUNTED:
        kinds, counts = np.unique(np.asarray(manifest.kind), return_counts=True)
        names = [EXTENSIONS[kind] for kind in kinds.tolist()]
        facts["formats"] = dict(zip(names, counts.tolist(), strict=True))
        label = np.asarray(manifest.label)
        facts["labelled"] = int((label != NO_LABEL).sum())
        facts["classes"] = len(np.unique(label[label != NO_LABEL]))
    if evaluated.held_out is not None:
        facts["held_out"] = len(evaluated.held_out.manifest)
    return facts


def record_start(
    run: Run, setup: TrainingSetup, step: int, notes: list[str], evaluated: EvaluationImages
) -> None:
    """Record the start in starts.jsonl and events.jsonl."""
    event = "resume" if step else "start"
    fingerprint = setup.data.manifest.fingerprint
    data: dict[str, Any] = {"recipe": setup.config.recipe, "data": fingerprint}
    if declaration(setup.config.objective).needs_labels:
        data["labels"] = labels_digest(setup.data.manifest)
    if held_out := held_out_digest(evaluated):
        data["held_out"] = held_out
    data["dataset"] = describe_data(setup.data.manifest, evaluated)
    if folders := recorded_folders(setup.config):
        data[RECORD] = folders
    if found := cautions(setup):
        data["cautions"] = [{"text": one.text, "reason": one.reason} for one in found]
    run.write_start({"event": event, "step": step, **describe_start(), **data})
    append_event(run.folder, step, event, ", ".join(notes))
