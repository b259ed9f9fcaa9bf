"""`mae inspect-batch`."""

import argparse

import torch

from mae.base.errors import UserError
from mae.commands.images import write_png
from mae.data.training_data import open_training_data
from mae.data.views import PixelViews
from mae.pictures.drawing import tile
from mae.training.checkpoint.files import newest_checkpoint
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.trained import build_objective


def inspect_batch(args: argparse.Namespace) -> None:
    """`mae inspect-batch`."""
    run = Run(args.run)
    config, data = open_training_data(run.config())
    refuse_other_samples(run, data.manifest.fingerprint)
    size, steps = config.train.batch_size, args.step
    names = data.names(steps, size)
    # The crops of the run, though it may have made them on its device: the same within rounding
    # and the differences of decoders.
    img_size = build_objective(config).img_size
    views = PixelViews(
        data.manifest, data.order, config.data, img_size, config.data.in_chans, data.cache
    )
    first = (steps - 1) * size
    batch = views.batch(range(first, first + min(size, args.count)))
    replaced = {bad.sample: bad.reason for bad in batch.bad}
    for number, name in enumerate(names):
        print(f"{number:5}  {name}")
    for reason in replaced.values():
        print(f"replaced  {reason}")
    white = torch.iinfo(batch.images.dtype).max
    out = args.out or args.run / f"batch-{steps:09d}.png"
    name = "crops, decoded here" if config.data.decode_on_device else "crops as trained on"
    crops = {name: batch.images.float() / white}
    write_png(tile(crops, f"{args.run}, step {steps}, the first {len(batch.images)}"), out)
    print(out)


def refuse_other_samples(run: Run, fingerprint: str) -> None:
    """UserError where the run was trained on other samples than data.train has now."""
    found = newest_checkpoint(run.checkpoints)
    if found and found.state.data != fingerprint:
        raise UserError(
            f"{run.folder}: was trained on other samples than data.train names (fingerprint "
            f"{found.state.data[:16]}, now {fingerprint[:16]}): its steps cannot be shown"
        )
