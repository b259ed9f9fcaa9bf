"""The report of the paper's linear probe: `mae probe --protocol mae`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mae.config import Config
from mae.data.images import Images
from mae.evaluation.confidence import wilson
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.mae_probe import (
    BATCH_SIZE,
    MOMENTUM,
    SCALE,
    Kept,
    Plan,
    ProbeRecipe,
    make_plan,
    train_head,
)
from mae.evaluation.mae_probe_head import blank_vectors, feature_name, ranks_of_truth
from mae.evaluation.mae_probe_state import forget_state
from mae.evaluation.trained_record import number_classes, percents, provenance

OFFICIAL_IMAGES = 90 * 1_281_167
"""views of ImageNet-1k that the published numbers for ViT-B are trained on"""

TOP = 5


def mae_linear_probe(
    config: Config,
    encoder: FrozenEncoder,
    train: Images,
    test: Images,
    recipe: ProbeRecipe,
    *,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train the head as `recipe` says, then meet the test set once.

    The head is kept in `folder` after every epoch, and the same call goes on from there.  Raises
    UserError for unlabelled samples, test classes that training lacks, more than data.max_bad
    unreadable training images, an unreadable test image.
    """
    numbers = number_classes(train.manifest, test.manifest)
    plan = make_plan(recipe, len(train.manifest))
    notes = list(remarks(recipe, plan))
    for note in notes:
        say(f"note: {note}")
    settings: dict[str, Any] = {
        "epochs": recipe.epochs,
        "batch_size": plan.slices.batch_size,
        "images_at_a_time": plan.slices.device_batch,
        "steps": plan.steps,
        "blr": recipe.blr,
        "lr": plan.lr,
        "warmup_epochs": recipe.warmup_epochs,
        "optimizer": f"LARS, momentum {MOMENTUM}, no weight decay",
        "crops": f"random resized, area {SCALE[0]} to {SCALE[1]:g}",
        "flip": config.data.flip,
        "seed": recipe.seed,
    }
    decisive = {"encoder": encoder.sha256, "training data": train.manifest.fingerprint}
    head = train_head(
        config,
        encoder,
        train,
        numbers.train,
        recipe,
        kept=Kept(folder, {**settings, **decisive}) if folder else None,
        device=device,
        workers=workers,
        say=say,
    )
    feature = feature_name(blank_vectors(config, encoder, device))
    ranks = ranks_of_truth(head, encoder, test, numbers.test, device=device, workers=workers)
    if folder:
        forget_state(folder)
    accuracy = float((ranks == 0).mean())
    few = numbers.count <= TOP
    top5 = None if few else float((ranks < TOP).mean())
    return {
        "protocol": "linear classifier behind a BatchNorm on frozen features, LARS, random "
        "crops (He et al. 2021, table 10)",
        "selection": "none: the last epoch meets the test set once",
        "feature": feature,
        "settings": settings,
        "notes": notes,
        **provenance(encoder, train, test),
        "classes": numbers.count,
        "accuracy": accuracy,
        "interval": list(wilson(accuracy, len(ranks))),
        "interval_rule": "95 %, Wilson's, over the test images",
        "top5_accuracy": top5,
        "top5_interval": None if top5 is None else list(wilson(top5, len(ranks))),
    }


def remarks(recipe: ProbeRecipe, plan: Plan) -> Iterator[str]:
    """In what the probe is not the published one, for people to judge its number by."""
    if recipe.batch_size is None and plan.slices.batch_size < BATCH_SIZE:
        yield (
            f"batches of {plan.slices.batch_size:,} images instead of {BATCH_SIZE:,}, as there are "
            f"only {plan.samples:,} to train on"
        )
    views = plan.steps * plan.slices.batch_size
    if views < OFFICIAL_IMAGES / 10:
        yield (
            f"the head sees {views:,.0f} views, the published one {OFFICIAL_IMAGES:,}: LARS moves "
            "by shares of its weights' length and may not get there; more --epochs or a higher "
            "--blr bring it closer, and the fast protocol does not depend on that"
        )


def mae_probe_table(report: dict[str, Any]) -> str:
    """The report for people."""
    shown = [("top-1", report["accuracy"], report["interval"])]
    if report["top5_accuracy"] is not None:
        shown.append((f"top-{TOP}", report["top5_accuracy"], report["top5_interval"]))
    lines = [f"{'linear probe, protocol mae':28}{'accuracy':>10}{'95 %':>12}"]
    lines += [f"{name:28}{value:>10.1%}{percents(both):>12}" for name, value, both in shown]
    lines.append(
        f"on {report['test_images']:,} test images of {report['classes']} classes; the interval is "
        "the chance of drawing these"
    )
    return "\n".join(lines)
