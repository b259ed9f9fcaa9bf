"""`mae segment`: segmentation probe on frozen patch tokens."""

import argparse
from typing import Any

from mae.commands.options import add_command, head_options, positive

EPILOG = (
    "Measures how well single patch tokens predict the class of their pixels: a linear classifier "
    "and k-NN on frozen tokens, mean IoU and pixel accuracy at patch resolution and interpolated "
    "to pixels. The shards hold a mask beside each image, KEY.mask.png or KEY.seg.png of the "
    "image's size: the class as gray value or palette index, 255 where there is none. The penalty "
    "is chosen on a tenth of --train; --test is used once, at the end. No decoder is trained, so "
    "the numbers are below those of segmentation models."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "segment", "segmentation probe on frozen patch tokens", run, EPILOG
    )
    head_options(parser, "shards with masks")
    parser.add_argument(
        "--patches",
        type=positive,
        default=50_000,
        help="number of training patches, the same from each image",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate; write the JSON file, print the table."""
    from mae.base.device import choose_device
    from mae.commands.frozen_encoders import finish, log, open_comparison
    from mae.evaluation.segmentation_report import segmentation_report, segmentation_table

    compared, device = open_comparison(args, log, needs_labels=False), choose_device(args.device)
    assert compared.patch_size is not None
    for module in compared.modules.values():
        module.to(device)
    report = segmentation_report(
        compared.encoders,
        compared.patch_size,
        compared.train,
        compared.test,
        patches=args.patches,
        seed=args.seed,
        max_bad=compared.opened.config.data.max_bad,
        device=device,
        workers=args.workers,
        log=log,
    )
    out = args.out or compared.folder / "segment.json"
    shown, step = segmentation_table(report), compared.opened.step
    finish(args, out, report, shown, step=step, seen=compared.seen)
