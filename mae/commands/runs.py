"""The commands that look at a run: `mae inspect-batch`, `mae report`."""

import argparse

import torch

from mae.commands.images import write_png
from mae.data.loader import BY_THE_CPU, TrainingViews
from mae.data.training_data import open_training_data
from mae.errors import UserError
from mae.report.page import write_report
from mae.training.run import Run, build_objective
from mae.visualize import tile


def inspect_batch(args: argparse.Namespace) -> None:
    """`mae inspect-batch`."""
    run = Run(args.run)
    config, data = open_training_data(run.config())
    size, steps = config.train.batch_size, args.step
    names = data.names(steps, size)
    # Whatever the run did: the same crops, within rounding and what decoders differ in.
    settings = config.data.model_copy(update=BY_THE_CPU)
    img_size = build_objective(config).img_size
    views = TrainingViews(
        data.manifest, data.order, settings, img_size, config.model.in_chans, data.cache
    )
    first = (steps - 1) * size
    batch = views[range(first, first + min(size, args.count))]
    if isinstance(batch, UserError):
        raise batch
    replaced = {bad.sample: bad.reason for bad in batch.bad}
    for number, name in enumerate(names):
        print(f"{number:5}  {name}")
    for reason in replaced.values():
        print(f"replaced  {reason}")
    assert isinstance(batch.images, torch.Tensor)
    white = torch.iinfo(batch.images.dtype).max
    out = args.out or args.run / f"batch-{steps:09d}.png"
    name = "crops, decoded here" if config.data.decode_on_device else "crops as trained on"
    crops = {name: batch.images.float() / white}
    write_png(tile(crops, f"{args.run}, step {steps}, the first {len(batch.images)}"), out)
    print(out)


def report(args: argparse.Namespace) -> None:
    """`mae report`."""
    print(write_report(args.run, args.out or args.run / "report.html"))
