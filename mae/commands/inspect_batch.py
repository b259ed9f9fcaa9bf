"""`mae inspect-batch`: names and pictures of the images of one training step."""

from __future__ import annotations

import argparse
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.commands.argument_types import positive
from mae.commands.options import add_command, run_cache_options, with_own_cache

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.training.checkpoint.run import Run


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "inspect-batch", "names and pictures of the images of one training step", run
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("step", type=positive, help="step, as numbered in the log and events.jsonl")
    parser.add_argument(
        "--count", type=positive, default=64, help="maximum number of images in the picture"
    )
    parser.add_argument("--out", type=Path, help="PNG (default: RUN/batch-STEP.png)")
    parser.add_argument(
        "--train",
        nargs="+",
        help="training data, shards or a folder, where they have moved or the run has no signed "
        "addresses",
    )
    run_cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Print the names of the step's images; write a picture of the crops.

    Raises UserError where the run was trained on other data than data.train has now.
    """
    from mae.base.errors import UserError
    from mae.commands.pictures import write_png
    from mae.data.training_data import open_training_data
    from mae.data.views import PixelViews, build_training_views
    from mae.networks.patches import unit_values
    from mae.objectives.registry import data_needs, declaration
    from mae.pictures.drawing import displayable, tile
    from mae.training.checkpoint.run import Run
    from mae.training.checkpoint.trained import build_objective, with_kept_stage
    from mae.training.plan import make_plan

    trained = Run(args.run)
    config = with_own_cache(trained.config(), args)
    if args.train:
        if config.data.mixture:
            raise UserError("--train: the run draws from a mixture, whose shards stay its own")
        moved = config.data.model_copy(update={"train": tuple(args.train)})
        config = config.model_copy(update={"data": moved})
    config, data = open_training_data(config.model_copy(update={"output": str(trained.folder)}))
    refuse_other_samples(trained, data.manifest)
    size, step = config.train.batch_size, args.step
    steps, stands = make_plan(config, len(data.manifest), 1, 0).steps, trained.newest_step() or 0
    if step > steps:
        raise UserError(f"step {step:,}: the run has {steps:,} steps")
    names = data.names(step, size)
    # The crops of the run, though it may have made them on its device: the same within rounding
    # and the differences of decoders.
    img_size = build_objective(with_kept_stage(config, trained.folder)).img_size
    declared = declaration(config.objective)
    views = build_training_views(
        data.manifest,
        data.order,
        config.data.model_copy(update={"crop_on_device": False, "decode_on_device": False}),
        img_size,
        config.data.in_chans,
        data.cache,
        augment=declared.augmentation(config, img_size),
        needs=data_needs(config),
    )
    assert isinstance(views, PixelViews)
    first = (step - 1) * size
    batch = views.batch(range(first, first + min(size, args.count)))
    used = map(data.manifest.name, batch.samples.tolist())
    for number, (name, own) in enumerate(zip_longest(names, used)):
        replaced = f", replaced by {own}" if own not in (None, name) else ""
        print(f"{number:5}  {name}{replaced}")
    if len(names) > args.count:
        left = len(names) - args.count
        print(f"not read: the last {left:,} of these (--count); bad ones among them are replaced")
    if step > stands:
        print(f"not trained yet: the run stands at step {stands:,}")
    for reason in {bad.sample: bad.reason for bad in batch.bad}.values():
        print(f"replaced  {reason}")
    out = args.out or args.run / f"batch-{step:09d}.png"
    name = "crops, decoded here" if config.data.decode_on_device else "crops, before the objective"
    images = batch.images
    is_float = images.is_floating_point()
    crops = {name: displayable(images) if is_float else unit_values(images)}
    write_png(tile(crops, f"{args.run}, step {step}, the first {len(batch.images)}"), out)
    print(out)


def refuse_other_samples(run: Run, manifest: Manifest) -> None:
    """Raise UserError where the run was trained on other samples than data.train has now."""
    from mae.base.errors import UserError
    from mae.training.checkpoint.checkpoint_files import newest_checkpoint

    found = newest_checkpoint(run.checkpoints)
    if found and not manifest.is_recorded_as(found.state.data):
        raise UserError(
            f"{run.folder}: was trained on other samples than data.train names (fingerprint "
            f"{found.state.data[:16]}, now {manifest.fingerprint[:16]}): its steps cannot be shown"
        )
