"""`mae segment`: segmentation probe on frozen patch tokens."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import positive
from mae.commands.options import add_command, head_options, portion_of, portion_options

EPILOG = (
    "Measures how well single patch tokens predict the class of their pixels: a linear classifier "
    "and k-NN on frozen tokens, mean IoU and pixel accuracy at patch resolution and interpolated "
    "to pixels. The shards hold a mask beside each image, KEY.mask.png or KEY.seg.png of the "
    "image's size. Binary masks (0 and 255, edges may be gray, JPEG too) are recognised, and a "
    "threshold at half is applied. Else the gray value or palette index is the class, 255 is none. "
    "For colours, other values and names of classes: --palette FILE, lines name,r,g,b or "
    "name,value under that header; lines of one name are one class, `void` is none. The penalty is "
    "chosen on a tenth of --train; --test is used once, at the end. No decoder is trained, so the "
    "numbers are below those of segmentation models."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "segment", "segmentation probe on frozen patch tokens", run, EPILOG
    )
    head_options(parser, "images with masks")
    parser.add_argument(
        "--patches",
        type=positive,
        default=50_000,
        help="number of training patches, the same from each image; of more images one from each "
        "of so many, drawn at random",
    )
    parser.add_argument(
        "--palette", type=Path, metavar="FILE", help="classes of colours or values, a CSV file"
    )
    parser.add_argument(
        "--masks",
        choices=("auto", "binary", "classes"),
        default="auto",
        help="two values with a threshold between, or class numbers; auto: by the values",
    )
    parser.add_argument(
        "--void",
        type=void_value,
        metavar="N|none",
        help="mask value of pixels without a class (default: 255; binary masks: none)",
    )
    parser.add_argument(
        "--unmasked",
        choices=("refuse", "skip", "background"),
        default="refuse",
        help="images without a mask: refuse, skip, or take all pixels for class 0",
    )
    portion_options(parser)


def void_value(text: str) -> int | str:
    """Number from 0 to 65,535, or `none`."""
    if text == "none":
        return text
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is neither none nor in 0..65535")
    return value


def run(args: argparse.Namespace) -> None:
    """Evaluate; write the JSON file, print the table."""
    from mae.base.device import choose_device, loader_count
    from mae.commands.frozen_encoders import finish, open_comparison
    from mae.evaluation.encoders import RAW
    from mae.evaluation.mask_classes import MaskOptions
    from mae.evaluation.mask_table import read_mask_table
    from mae.evaluation.pixel_encoders import patch_pixel_encoder
    from mae.evaluation.segmentation_report import segmentation_report, segmentation_table

    table = read_mask_table(args.palette) if args.palette else None
    portion = portion_of(args)
    log = portion.log
    compared = open_comparison(args, log, portion, needs_labels=False)
    device, out = choose_device(args.device), args.out or compared.folder / "segment.json"
    assert compared.patch_size is not None
    for module in compared.modules.values():
        module.to(device)
    encoders = dict(compared.encoders)
    if args.baselines:
        ours = next(iter(encoders.values()))
        config, size = compared.opened.config, compared.patch_size
        encoders[RAW] = patch_pixel_encoder(config, size, ours.img_size, ours.crop_pct)
    report = segmentation_report(
        encoders,
        compared.patch_size,
        compared.train,
        compared.test,
        out=out,
        options=MaskOptions(table, args.masks, args.void),
        unmasked=args.unmasked,
        patches=args.patches,
        seed=args.seed,
        max_bad=compared.opened.config.data.max_bad,
        device=device,
        workers=loader_count(args.workers),
        portion=portion,
        log=log,
    )
    portion.leave_to_first()
    assert report is not None
    shown, opened = segmentation_table(report), compared.opened
    finish(args, out, report, shown, step=opened.step, seen=compared.seen, weights=opened.lines)
