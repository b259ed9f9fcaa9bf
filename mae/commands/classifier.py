"""`mae evaluate`: a fine-tuned classifier on labelled shards."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mae.commands.images import write_png
from mae.data.class_names import class_names
from mae.data.training_data import open_images
from mae.device import choose_device
from mae.errors import UserError
from mae.evaluation.classification import (
    class_report,
    class_table,
    confusion,
    judge,
    require_classes,
)
from mae.models.classifier import Classifier
from mae.pictures.confusion import draw_confusion
from mae.results import write_json
from mae.training.run import load_pretrained


def evaluate(args: argparse.Namespace) -> None:
    """`mae evaluate`."""
    out = args.out or args.run / "evaluation.json"
    device = choose_device(args.device)
    print(evaluate_run(args.run, args.test, "--test", out, device, args.workers))


def evaluate_run(
    folder: Path, shards: Sequence[str], key: str, out: Path, device: str, workers: int
) -> str:
    """Write `out` and the confusion matrix beside it; what there is to tell.

    `key` is what messages call `shards`.  Raises UserError where `folder` holds no classifier, or
    the labels are not its classes.
    """
    config, objective, position = load_pretrained(folder)
    if not isinstance(objective, Classifier):
        raise UserError(f"{folder}: a pretraining run; `mae finetune` makes a classifier of it")
    images = open_images(shards, key, config)
    num_classes = config.finetune.num_classes
    labels = require_classes(images, key, num_classes)
    judged = judge(
        objective.to(device).logits,
        images,
        labels,
        objective.img_size,
        config.data.crop_pct,
        device=device,
        workers=workers,
    )
    names = class_names(images.manifest.shards, num_classes)
    report = class_report(judged, names)
    facts = {
        "protocol": "centred views, all images once; the last checkpoint, nothing chosen on them",
        "run": str(folder),
        "step": position.step,
        "data": images.manifest.fingerprint,
        "crop_pct": config.data.crop_pct,
        "averaged_weights": config.finetune.ema > 0,
        "seed": config.train.seed,
        "interval_rule": "95 %, Wilson's, of the test images",
    }
    write_json(out, {**facts, **report})
    picture = out.with_name(f"{out.stem}-confusion.png")
    title = f"{folder.name}, step {position.step:,}: {report['accuracy']:.1%} of "
    title += f"{report['images']:,} images right"
    write_png(draw_confusion(confusion(judged, num_classes), names, title), picture)
    return f"{class_table(report)}\n{out}\n{picture}"
