"""`mae evaluate`: accuracy of a fine-tuned classifier on labelled shards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.base.portion import ALONE, Portion
from mae.commands.options import (
    add_command,
    device_option,
    portion_of,
    portion_options,
    run_argument,
    run_cache_options,
    weight_options,
    with_own_cache,
    workers_option,
)

if TYPE_CHECKING:
    from mae.commands.classifiers import EvaluatedRun
    from mae.config.sections import Config
    from mae.data.images import Images
    from mae.pretrained_weights.architecture import WeightOptions
    from mae.pretrained_weights.opened import OpenedModel


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
    parser.add_argument(
        "--test", nargs="+", required=True, help="labelled images: shards or a folder"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file; the confusion matrix goes beside it as a PNG "
        "(default: RUN/evaluation.json; for an export or a file of weights, in the folder "
        "NAME-evaluations beside it)",
    )
    parser.add_argument(
        "--positive",
        default="",
        metavar="CLASS",
        help="of two classes the one that sensitivity is about (default: the one beside a class "
        "called good, normal, negative, no_... and the like, else the second)",
    )
    parser.add_argument(
        "--beside", type=Path, metavar="RUN", help="another run to compare with, on the same images"
    )
    workers_option(parser)
    device_option(parser)
    run_cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate the run on --test; print accuracies and the files written."""
    from mae.base.device import choose_device, loader_count
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
            workers=loader_count(args.workers),
            read_with=lambda config: with_own_cache(config, args),
            beside=args.beside,
            options=weight_options(args),
            portion=portion_of(args),
            positive=args.positive,
        )
    )


def evaluate_held_out(config: Config) -> str:
    """Evaluate the last checkpoint of a run on its data.val; the lines to print.

    Raises as `evaluate_run`.
    """
    from mae.base.device import choose_device, loader_count

    folder = Path(config.output)
    return evaluate_run(
        folder,
        config.data.held_out,
        key="data.val",
        out=folder / "evaluation.json",
        device=choose_device("auto"),
        workers=loader_count(config.data.workers),
        read_with=lambda recorded: recorded.model_copy(update={"data": config.data}),
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
    portion: Portion = ALONE,
    positive: str = "",
) -> str:
    """Write `out` and the confusion matrix beside it; the lines to print.

    Messages call `shards` by `key`.  `read_with` completes a run's settings by those of this
    call.  `beside`: another run, to compare with on the same images; `options`: of weights in
    `folder` that do not record their settings; `portion`: that of this process in the predictions;
    `positive`: class of two that sensitivity is about.  Raises UserError where a folder holds no
    classifier, the labels are not its classes or more than data.max_bad images cannot be decoded;
    PartDone in all processes but the first.
    """
    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.commands.classifiers import open_classifier, predict
    from mae.commands.pictures import write_png
    from mae.evaluation.classification import class_report, class_table, confusion
    from mae.evaluation.two_classes import positive_class
    from mae.pictures.confusion import draw_confusion
    from mae.training.checkpoint.run import find_run

    log = portion.log
    given = [(folder, options), *([(beside, None)] if beside else [])]
    classifiers = [
        open_classifier(source, shards, key, device, read_with, its, portion)
        for source, its in given
    ]
    chosen = positive_class(classifiers[0].names, positive) if positive else None
    evaluated, *others = predict(classifiers, out, device, workers, portion, log)
    predictions, names, step = evaluated.predictions, evaluated.names, evaluated.opened.step
    for reason in predictions.skipped:
        log(f"skipped: {reason}")
    seen, run = trained_on(evaluated.opened, evaluated.images), find_run(folder).folder
    report = class_report(predictions, names, chosen)
    report["notes"] += [evaluated.matched] * bool(evaluated.matched)
    at_step = "" if step is None else f", step {step:,}"
    lines = [f"{run}{at_step}", class_table(report)]
    if beside is not None:
        (other,) = others
        if other.predictions.skipped != predictions.skipped:
            raise UserError(f"--beside {beside}: reads other images of {key} than {folder}")
        if other.matched not in ("", evaluated.matched):
            report["notes"].append(other.matched)
        report["above"], line = compare_runs(evaluated, other, beside)
        lines.append(line)
    write_json(out, {**provenance(evaluated, folder, seen), **report})
    picture = out.with_name(f"{out.stem}-confusion.png")
    accuracy = f"{report['accuracy']:.1%} of {report['images']:,} images right"
    title = f"{run.name}{at_step}: {accuracy}"
    write_png(draw_confusion(confusion(predictions, len(names)), names, title), picture)
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join([*lines, str(out), str(picture)])


def compare_runs(
    evaluated: EvaluatedRun, other: EvaluatedRun, beside: Path
) -> tuple[dict[str, Any], str]:
    """Paired comparison with `other`, of `beside`: its part of the report, and the line to print.

    Both were evaluated on the same images.
    """
    import numpy as np

    from mae.evaluation.confidence import paired_difference

    ours, others = (
        one.predicted == one.labels for one in (evaluated.predictions, other.predictions)
    )
    above = paired_difference(ours, others, evaluated.opened.config.train.seed)
    compared = {
        "run": str(beside),
        "accuracy": float(np.mean(others)),
        "test_images_in_train": trained_on(other.opened, evaluated.images, f"{beside}: "),
        "difference": above.mean,
        "interval": list(above.interval),
    }
    low, high = (100 * bound for bound in above.interval)
    return compared, (
        f"{beside}: {np.mean(others):.1%} of the same images; this run {100 * above.mean:+.1f} "
        f"points ({low:+.1f} to {high:+.1f}, 95 % interval, paired)"
    )


def provenance(evaluated: EvaluatedRun, folder: Path, seen: int | None) -> dict[str, Any]:
    """Provenance of the report: protocol, weights, data, date and versions.

    `seen`: number of test images that the run was trained on; None: unknown.
    """
    from datetime import UTC, datetime

    from mae import __version__
    from mae.pretrained_weights.opened import is_run
    from mae.training.checkpoint.run import find_run

    opened = evaluated.opened
    chosen = "nothing was chosen on these images"
    if seen is None:
        chosen = "whether these images were trained on is not known"
    elif seen:
        chosen = f"{seen:,} of these images were trained on"
    checkpoint = "the given weights"
    if is_run(folder):
        checkpoint = f"{'the last' if find_run(folder).folder == folder else 'a given'} checkpoint"
    return {
        "protocol": "centred views, all images once",
        "selection": f"{checkpoint}; {chosen}",
        "run": str(folder),
        "step": opened.step,
        **({"weights": list(opened.lines)} if opened.lines else {}),
        "test_images_in_train": seen,
        "data": evaluated.images.manifest.fingerprint,
        "crop_pct": evaluated.crop_pct,
        "averaged_weights": opened.config.train.ema > 0,
        "seed": opened.config.train.seed,
        "interval_rule": "95 %: Wilson's, of the test images; differences: paired bootstrap; "
        "AUROC: bootstrap within the classes",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"mae": __version__},
    }


def trained_on(opened: OpenedModel, test: Images, name: str = "") -> int | None:
    """Number of images of `test` that the run was trained on, with a warning if there are any.

    None, with a warning, where it is not known: remote training shards are not fetched for it, and
    others may be at their place now.  Warnings begin with `name`.
    """
    from mae.base.errors import UserError
    from mae.base.output import print_error
    from mae.data.opening import training_manifest
    from mae.evaluation.comparison import seen_in_train
    from mae.pack.packed_folders import is_folder, is_packed
    from mae.storage.remote import is_remote

    data = opened.config.data
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    try:
        if not patterns:
            problem = "the weights do not name their training images"
        elif any(is_folder(one) and not is_packed(one, "data.train", data) for one in patterns):
            problem = "data.train, a folder, has changed since, or has no packed copy here"
        elif not any(map(is_remote, patterns)):
            train = training_manifest(data)
            if opened.state and train.is_recorded_as(opened.state.data):
                return seen_in_train(train, test.manifest, print_error, f"{name}data.train")
            problem = "data.train holds other images now than the run was trained on"
        else:
            problem = "its shards are remote"
    except UserError as error:
        problem = str(error)
    print_error(f"warning: {name}whether these images were trained on is not known: {problem}")
    return None
