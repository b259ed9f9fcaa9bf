"""Options and opening of the real images that generated ones are judged against."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from mae.base.errors import StorageError, UserError
from mae.commands.argument_types import positive
from mae.commands.options import SHARDS, workers_option

if TYPE_CHECKING:
    from mae.generation.real_images import Reading, RealImages
    from mae.pretrained_weights.opened import OpenedModel


def judge_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options of the judgement; `what` is judged, plural."""
    group = parser.add_argument_group(
        "judgement",
        f"With --compare the {what} are compared with real images, in the features of another "
        "encoder, beside trivial baselines.",
    )
    group.add_argument(
        "--compare", nargs="+", metavar="SHARDS", help=f"held-out real images: {SHARDS}"
    )
    group.add_argument(
        "--judge",
        metavar="ENCODER",
        help="run, export, file of weights, timm:NAME of another encoder (default: a fixed random "
        "convolutional network)",
    )
    group.add_argument(
        "--train",
        nargs="+",
        metavar="SHARDS",
        help="training images of the model, for baselines and nearest neighbours (default: those "
        "of RUN)",
    )
    group.add_argument(
        "--judged",
        type=positive,
        help=f"number of {what} that are judged (default: half of the real images, at most 1,000)",
    )
    workers_option(group)  # pyrefly: ignore  # a group takes arguments as a parser does


def refuse_without_compare(args: argparse.Namespace) -> None:
    """Raise UserError for options of the judgement without --compare."""
    for name in ("judge", "train", "judged"):
        if getattr(args, name) is not None and not args.compare:
            raise UserError(f"--{name}: needs --compare SHARDS, the real images")


def open_real(
    args: argparse.Namespace, opened: OpenedModel, device: str, log: Callable[[str], None]
) -> RealImages:
    """Real images and judge of `judge_options`, for an opened model with the settings of this call.

    Raises UserError where they cannot be opened, or are too few.
    """
    from mae.data.opening import open_images, training_images
    from mae.evaluation.comparison import seen_in_train
    from mae.generation.judges import open_judge
    from mae.generation.real_images import MOST_REAL, RealImages, random_subset

    config = opened.config
    judge = open_judge(args.judge, opened, device)
    held_out = open_images(args.compare, "--compare", config)
    train = None
    if args.train:
        train = open_images(args.train, "--train", config)
    elif config.data.train or config.data.mixture:
        try:
            train = training_images(config)
            train = train.of(train.manifest.changed(second=None))
        except (UserError, StorageError) as error:
            log(f"no baselines and no nearest training images: {error}; give --train SHARDS")
    else:
        log("no baselines and no nearest training images: give --train SHARDS")
    if train:
        seen_in_train(train.manifest, held_out.manifest, log, "the training images")
    reading = reading_of(args, opened, device, log)
    return RealImages(random_subset(held_out, MOST_REAL, args.seed), train, judge, reading)


def reading_of(
    args: argparse.Namespace, opened: OpenedModel, device: str, log: Callable[[str], None]
) -> Reading:
    """Settings by which images are read for an opened model, by --workers and --out."""
    from mae.base.device import loader_count
    from mae.evaluation.feature_cache import FOLDER
    from mae.generation.real_images import Reading
    from mae.pretrained_weights.opened import results_folder

    return Reading(
        config=opened.config,
        img_size=opened.objective.img_size,
        folder=results_folder(args.run, args.out) / FOLDER,
        device=device,
        workers=loader_count(args.workers),
        log=log,
    )
