"""`mae evaluate`: fine-tuned classifiers on labelled shards."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae import __version__
from mae.commands.images import write_png
from mae.config import Config
from mae.data.class_names import class_names
from mae.data.images import Images
from mae.data.training_data import open_images
from mae.device import choose_device
from mae.errors import UserError
from mae.evaluation.classification import (
    Judged,
    class_report,
    class_table,
    confusion,
    judge,
    require_classes,
)
from mae.evaluation.confidence import paired_difference
from mae.models.classifier import Classifier
from mae.pictures.confusion import draw_confusion
from mae.results import write_json
from mae.training.checkpoint import Position
from mae.training.run import load_pretrained


class Evaluated(NamedTuple):
    """A run's classifier, and what it made of the images."""

    config: Config
    position: Position
    images: Images
    judged: Judged


def evaluate(args: argparse.Namespace) -> None:
    """`mae evaluate`."""
    out = args.out or args.run / "evaluation.json"
    device = choose_device(args.device)
    print(evaluate_run(args.run, args.test, "--test", out, device, args.workers, args.beside))


def evaluate_run(
    folder: Path,
    shards: Sequence[str],
    key: str,
    out: Path,
    device: str,
    workers: int,
    beside: Path | None = None,
) -> str:
    """Write `out` and the confusion matrix beside it; what there is to tell.

    `key` is what messages call `shards`; `beside` is another run, to be compared with on the same
    images.  Raises UserError where a folder holds no classifier, or the labels are not its
    classes.
    """
    config, position, images, judged = judge_run(folder, shards, key, device, workers)
    num_classes = config.finetune.num_classes
    names = class_names(config.data.train, num_classes)
    theirs = class_names(images.manifest.shards, num_classes)
    numbers = [str(i) for i in range(num_classes)]
    if theirs != names and numbers not in (theirs, names):
        raise UserError(f"{key}: its classes.txt names other classes than data.train's")
    report = class_report(judged, names)
    lines = [class_table(report)]
    if beside is not None:
        other = judge_run(beside, shards, key, device, workers).judged
        ours, others = (one.guesses == one.labels for one in (judged, other))
        above = paired_difference(ours, others, config.train.seed)
        report["above"] = {
            "run": str(beside),
            "accuracy": float(np.mean(others)),
            "difference": above.mean,
            "interval": list(above.interval),
        }
        low, high = (100 * bound for bound in above.interval)
        lines.append(
            f"{beside}: {np.mean(others):.1%} of the same images; this run {100 * above.mean:+.1f} "
            f"points ({low:+.1f} to {high:+.1f}, 95 % interval, paired)"
        )
    facts = {
        "protocol": "centred views, all images once",
        "selection": "the last checkpoint; nothing was chosen on these images",
        "run": str(folder),
        "step": position.step,
        "data": images.manifest.fingerprint,
        "crop_pct": config.data.crop_pct,
        "averaged_weights": config.finetune.ema > 0,
        "seed": config.train.seed,
        "interval_rule": "95 %: Wilson's, of the test images; differences: paired bootstrap",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"mae": __version__},
    }
    write_json(out, {**facts, **report})
    picture = out.with_name(f"{out.stem}-confusion.png")
    title = f"{folder.name}, step {position.step:,}: {report['accuracy']:.1%} of "
    title += f"{report['images']:,} images right"
    write_png(draw_confusion(confusion(judged, num_classes), names, title), picture)
    return "\n".join([*lines, str(out), str(picture)])


def judge_run(
    folder: Path, shards: Sequence[str], key: str, device: str, workers: int
) -> Evaluated:
    """The newest checkpoint of a run on all images of `shards`; raises as `evaluate_run` does."""
    config, objective, position = load_pretrained(folder)
    if not isinstance(objective, Classifier):
        raise UserError(f"{folder}: a pretraining run; `mae finetune` makes a classifier of it")
    images = open_images(shards, key, config)
    labels = require_classes(images, key, config.finetune.num_classes)
    judged = judge(
        objective.to(device).logits,
        images,
        labels,
        objective.img_size,
        config.data.crop_pct,
        device=device,
        workers=workers,
    )
    return Evaluated(config, position, images, judged)
