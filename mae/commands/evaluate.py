"""`mae evaluate`: accuracy of a fine-tuned classifier on labelled shards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mae.base.device import usable_cores
from mae.commands.options import (
    add_command,
    device_option,
    natural,
    run_argument,
    run_cache_options,
    weight_options,
    with_own_cache,
)

if TYPE_CHECKING:
    from mae.config.sections import Config
    from mae.data.images import Images
    from mae.evaluation.classification import Predictions
    from mae.pretrained_weights.architecture import WeightOptions
    from mae.pretrained_weights.opened import OpenedModel


class EvaluatedRun(NamedTuple):
    """Classifier of a run, the images, and its predictions."""

    opened: OpenedModel
    images: Images
    predictions: Predictions
    names: list[str]
    """a name for each class"""
    crop_pct: float
    matched: str
    """line on how the classes of model and images were matched; "": by the same names"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "evaluate",
        "accuracy of a fine-tuned classifier, overall and by class",
        run,
        epilog="RUN is a run of `mae finetune`, or weights with a classifier, such as released "
        "fine-tuned ones (head and, pooled by the mean, fc_norm). Labels are the numbers of its "
        "outputs; where both name their classes (classes.txt beside the file), names must agree.",
    )
    run_argument(parser)
    parser.add_argument("--test", nargs="+", required=True, help="labelled shards")
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file; the confusion matrix goes beside it as a PNG "
        "(default: RUN/evaluation.json; for an export or a file of weights, in the folder "
        "NAME-evaluations beside it)",
    )
    parser.add_argument(
        "--beside", type=Path, metavar="RUN", help="another one to compare with on the same images"
    )
    parser.add_argument(
        "--workers", type=natural, default=usable_cores(), help="decoding processes"
    )
    device_option(parser)
    run_cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate the run on --test; print accuracies and the files written."""
    from mae.base.device import choose_device
    from mae.pretrained_weights.opened import results_folder

    out = args.out or results_folder(args.run) / "evaluation.json"
    device = choose_device(args.device)
    print(
        evaluate_run(
            args.run,
            args.test,
            key="--test",
            out=out,
            device=device,
            workers=args.workers,
            read_with=lambda config: with_own_cache(config, args),
            beside=args.beside,
            options=weight_options(args),
        )
    )


def evaluate_run(
    folder: Path,
    shards: Sequence[str],
    key: str,
    out: Path,
    device: str,
    workers: int,
    read_with: Callable[[Config], Config],
    beside: Path | None = None,
    options: WeightOptions | None = None,
) -> str:
    """Write `out` and the confusion matrix beside it; the lines to print.

    Messages call `shards` by `key`.  `read_with` completes a run's settings by those of this
    call.  `beside`: another run, to compare with on the same images; `options`: of weights in
    `folder` that do not record their settings.
    Raises UserError where a folder holds no classifier, the labels are not its classes or more
    than data.max_bad images cannot be decoded.
    """
    from datetime import UTC, datetime

    import numpy as np

    from mae import __version__
    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.commands.frozen_encoders import log
    from mae.commands.pictures import write_png
    from mae.evaluation.classification import class_report, class_table, confusion
    from mae.evaluation.confidence import paired_difference
    from mae.pictures.confusion import draw_confusion
    from mae.pretrained_weights.opened import is_run
    from mae.training.checkpoint.run import find_run

    evaluated = predict_run(folder, shards, key, device, workers, read_with, options)
    opened, images, predictions, names, _, matched = evaluated
    config, step = opened.config, opened.step
    for reason in predictions.skipped:
        log(f"skipped: {reason}")
    seen, run = trained_on(opened, images), find_run(folder).folder
    report = class_report(predictions, names)
    report["notes"] += [matched] * bool(matched)
    shown = f"{run}" if step is None else f"{run}, step {step:,}"
    lines = [shown, class_table(report)]
    if beside is not None:
        other_run = predict_run(beside, shards, key, device, workers, read_with)
        other = other_run.predictions
        if other.skipped != predictions.skipped:
            raise UserError(f"--beside {beside}: reads other images of {key} than {folder}")
        if other_run.matched not in ("", matched):
            report["notes"].append(other_run.matched)
        ours, others = (one.predicted == one.labels for one in (predictions, other))
        above = paired_difference(ours, others, config.train.seed)
        report["above"] = {
            "run": str(beside),
            "accuracy": float(np.mean(others)),
            "test_images_in_train": trained_on(other_run.opened, images, f"{beside}: "),
            "difference": above.mean,
            "interval": list(above.interval),
        }
        low, high = (100 * bound for bound in above.interval)
        lines.append(
            f"{beside}: {np.mean(others):.1%} of the same images; this run {100 * above.mean:+.1f} "
            f"points ({low:+.1f} to {high:+.1f}, 95 % interval, paired)"
        )
    chosen = "nothing was chosen on these images"
    if seen is None:
        chosen = "whether these images were trained on is not known"
    elif seen:
        chosen = f"{seen:,} of these images were trained on"
    checkpoint = "the given weights"
    if is_run(folder):
        checkpoint = f"{'the last' if run == folder else 'a given'} checkpoint"
    facts = {
        "protocol": "centred views, all images once",
        "selection": f"{checkpoint}; {chosen}",
        "run": str(folder),
        "step": step,
        **({"weights": list(opened.lines)} if opened.lines else {}),
        "test_images_in_train": seen,
        "data": images.manifest.fingerprint,
        "crop_pct": evaluated.crop_pct,
        "averaged_weights": config.train.ema > 0,
        "seed": config.train.seed,
        "interval_rule": "95 %: Wilson's, of the test images; differences: paired bootstrap",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"mae": __version__},
    }
    write_json(out, {**facts, **report})
    picture = out.with_name(f"{out.stem}-confusion.png")
    title = f"{run.name}{'' if step is None else f', step {step:,}'}: {report['accuracy']:.1%} of "
    title += f"{report['images']:,} images right"
    write_png(draw_confusion(confusion(predictions, len(names)), names, title), picture)
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, str(out), str(picture)])


def predict_run(
    folder: Path,
    shards: Sequence[str],
    key: str,
    device: str,
    workers: int,
    read_with: Callable[[Config], Config],
    options: WeightOptions | None = None,
) -> EvaluatedRun:
    """Evaluate a checkpoint, or a run's newest, on all `shards`; raises as `evaluate_run` does."""
    from mae.base.errors import UserError
    from mae.commands.frozen_encoders import log
    from mae.data.training_data import open_labelled
    from mae.data.transform import choose_crop_pct
    from mae.evaluation.classification import evaluate_classifier, require_classes
    from mae.evaluation.features import missing_features
    from mae.networks.vit import timm_encoder
    from mae.pretrained_weights.opened import NOTHING, log_lines, model_classes, open_model

    opened = open_model(folder, options or NOTHING, allow_probe=True)
    log_lines(opened, log)
    config, objective = read_with(opened.config), opened.objective
    known = model_classes(opened, folder)
    classify: Any = getattr(objective.to(device), "logits", None)
    if classify is None or known is None:
        if opened.state is None:
            raise UserError(f"{folder}: holds no classifier (head.weight, head.bias)")
        refusal = missing_features(folder, config.objective, "class scores", "evaluate")
        if timm_encoder(objective) is None:
            raise refusal
        raise UserError(f"{refusal} (`mae finetune` makes a classifier of a pretraining run)")
    images, matched = open_labelled(shards, key, config, known.names, str(folder))
    named = len(images.manifest.class_names)
    if opened.state is None and not known.names and named not in (0, known.count):
        raise UserError(
            f"{key}: names {named} classes, {folder} has {known.count} without names: write theirs "
            "to classes.txt beside it, a name a line"
        )
    labels = require_classes(images, key, known.count)
    predictions = evaluate_classifier(
        classify,
        images,
        labels,
        objective.img_size,
        config.data.crop_pct,
        device=device,
        workers=workers,
        max_bad=config.data.max_bad,
    )
    crop_pct = choose_crop_pct(config.data.crop_pct, objective.img_size)
    return EvaluatedRun(opened, images, predictions, known.shown(), crop_pct, matched)


def trained_on(opened: OpenedModel, test: Images, name: str = "") -> int | None:
    """Number of images of `test` that the run was trained on, with a warning if there are any.

    None, with a warning, where it is not known: remote training shards are not fetched for it, and
    others may be at their place now.  Warnings begin with `name`.
    """
    from mae.base.errors import UserError
    from mae.commands.frozen_encoders import log
    from mae.data.training_data import training_manifest
    from mae.evaluation.comparison import seen_in_train
    from mae.storage.remote import is_remote

    data = opened.config.data
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    try:
        if not patterns:
            problem = "the weights do not name their training images"
        elif not any(map(is_remote, patterns)):
            train = training_manifest(data)
            if opened.state and train.is_recorded_as(opened.state.data):
                return seen_in_train(train, test.manifest, log, f"{name}data.train")
            problem = "data.train holds other images now than the run was trained on"
        else:
            problem = "its shards are remote"
    except UserError as error:
        problem = str(error)
    log(f"warning: {name}whether these images were trained on is not known: {problem}")
    return None
