"""Findings on a plan that is too short to learn: few steps, a long warm-up, few passes or images.

Each proposes settings to type.  Known before the first step, of any objective that trains a model.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from mae.config.choices import plain, power_of_two
from mae.config.sections import Config
from mae.config.validation import USUAL_WARMUP
from mae.evaluation.diagnosis import Finding
from mae.objectives.registry import declaration
from mae.training.planned_hours import planned_hours

LONG_WARMUP = 0.4
"""share of the epochs from which a warm-up is named"""
LEAST_BATCH = 32
"""batch below which more epochs are proposed instead of a smaller batch"""
WHOLE = 10_000_000
"""images of which a run may well see only a part"""
FEW_IMAGES = 100
"""images below which pretraining has little to learn from"""


class Length(NamedTuple):
    """Length of a planned run."""

    images: int
    """training images"""
    steps: int
    lr: float
    """peak learning rate"""


def about_length(config: Config, planned: Length) -> Iterator[Finding]:
    """Findings on steps, warm-up, epochs and images of a planned run."""
    declared = declaration(config.objective)
    if declared.is_probe:
        return
    train, optim = config.train, config.optim
    fewest = declared.fewest_steps(config)
    if planned.steps < fewest:
        remedy = f"Try {longer(config, planned, fewest)}."
        if hours := planned_hours(config):
            more = plain(hours * fewest / planned.steps)
            remedy = (
                f"They are what auto.hours={hours:g} is estimated to allow here: auto.hours="
                f"{more} allows {fewest:,}."
            )
        share = train.batch_size / planned.images
        whole = f" (a batch is {share:.0%} of the images)" * (share > 0.1)
        yield Finding(
            "watch",
            f"{planned.steps:,} optimizer steps are few{whole}: {fewest:,} or more are usual for "
            "such a model",
            remedy,
        )
    share = optim.warmup_epochs / train.epochs
    if share > LONG_WARMUP:
        yield Finding(
            "watch",
            f"The warm-up takes {share:.0%} of the run",
            "The learning rate is at its peak for a moment only. Try "
            f"optim.warmup_epochs={plain(USUAL_WARMUP * train.epochs)}.",
        )
    if train.epochs < 1 and planned.images < WHOLE:
        yield Finding(
            "watch",
            f"train.epochs={train.epochs:g} leaves {1 - train.epochs:.0%} of the images unseen",
            "Try train.epochs=1 or more.",
        )
    if planned.images < FEW_IMAGES and not declared.needs_labels:
        yield Finding(
            "watch",
            f"{planned.images:,} training images are few to learn from",
            f"Below {FEW_IMAGES} start from released weights (init.from=…), or fine-tune these "
            "directly.",
        )


def longer(config: Config, planned: Length, steps: int) -> str:
    """Settings with at least so many steps, as typed: a smaller batch first, then more epochs.

    The learning rate goes with the square root of the batch.
    """
    batch = config.train.batch_size
    passes = config.train.epochs * planned.images
    smaller = min(batch, max(LEAST_BATCH, power_of_two(passes / steps)))
    words = []
    if smaller < batch:
        lr = planned.lr * math.sqrt(smaller / batch)
        words += [f"train.batch_size={smaller}", f"optim.lr={lr:.2g}"]
    same = math.ceil(passes / smaller)
    if same >= steps:
        return f"{' '.join(words)}: {same:,} steps over as many images"
    epochs = math.ceil(steps * smaller / planned.images)
    return f"{' '.join([*words, f'train.epochs={epochs}'])}: {steps:,} steps"
