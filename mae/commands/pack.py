"""`mae pack`: images of folders, tables, datasets or tars to shards."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from mae.base.device import worker_count
from mae.commands.argument_types import amount, percent, positive, share
from mae.commands.options import (
    add_command,
    cache_options,
    portion_of,
    portion_options,
    seed_option,
    workers_option,
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "pack", "pack images into shards", run)
    parser.add_argument(
        "sources",
        nargs="+",
        help="folder (searched recursively); .csv, .tsv or .parquet table of paths; "
        "torchvision:NAME; tar files",
    )
    parser.add_argument("out", type=Path, help="new folder for the shards")
    parser.add_argument("--shard-size", type=positive, default=1000, help="images per shard")
    parser.add_argument("--shard-mb", type=amount, help="maximum size of a shard in megabytes")
    parser.add_argument(
        "--val",
        type=share,
        default=0.0,
        help="fraction held out, written as val-*.tar; images are drawn one by one, also of one "
        "patient or place: where there are several of one, divide the folders yourself",
    )
    seed_option(parser, "random seed of the shuffle")
    workers_option(parser, "processes")
    parser.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="top-level folders are classes (default: if every image is in one)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="number the classes as in this classes.txt, pack.json or packed folder, as for a "
        "second set of the same classes",
    )
    for option, help in (
        ("--include", "pack only files that match"),
        ("--exclude", "exclude files that match"),
    ):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{help}: a file's or a folder's name, or a path, with *, ? and [] (repeatable)",
        )
    parser.add_argument(
        "--masks",
        metavar="PATTERN",
        help="segmentation masks for mae segment, packed as KEY.mask.png: '*_mask.png' beside the "
        "images, 'masks/*.png' in a folder; none: no file is a mask",
    )
    parser.add_argument("--path-column", default="path", help="column of paths in a table")
    parser.add_argument(
        "--label-column", help="column of labels in a table (default: `label`, if there is one)"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("data"), help="torchvision's folder, also for downloads"
    )
    parser.add_argument(
        "--resize",
        type=positive,
        help="shrink the short side to this number of pixels (.npy arrays: channels are the first "
        "or the last axis, whichever is clearly shorter)",
    )
    parser.add_argument("--quality", type=percent, help="re-encode as JPEG of this quality")
    parser.add_argument("--drop-duplicates", action="store_true", help="skip exact copies")
    cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the shards; print a report, and the statistics of the training pixels."""
    from mae.base.errors import UserError
    from mae.commands.shard_cache import open_cache, print_statistics
    from mae.data.manifest_file import open_manifest
    from mae.pack.listing import PackRequest
    from mae.pack.output import manifest_file
    from mae.pack.pack import pack
    from mae.pack.shard_plan import PackOptions
    from mae.pack.summary import summary_lines

    request = PackRequest(
        sources=tuple(args.sources),
        labels=args.labels,
        classes=args.classes,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        masks=args.masks,
        path_column=args.path_column,
        label_column=args.label_column,
        root=args.root,
        cache=open_cache(args),
    )
    options = PackOptions(
        shard_size=args.shard_size,
        shard_bytes=round(args.shard_mb * 1e6) if args.shard_mb else None,
        val_fraction=args.val,
        seed=args.seed,
        resize=args.resize,
        quality=args.quality,
        drop_duplicates=args.drop_duplicates,
    )
    portion = portion_of(args)
    packed = pack(
        request,
        args.out,
        options,
        workers=worker_count(args.workers),
        portion=portion,
        log=portion.log,
    )
    print("\n".join(summary_lines(packed)))
    for split in packed.splits:
        file = manifest_file(args.out, split)
        if split == "train":
            try:
                print_statistics(open_manifest(str(file)), *packed.usual)
            except UserError as error:  # the shards are complete, whatever their pixels
                print(f"{'pixels':12} mean and std were not measured: {error}")
        print(f"{'manifest':12} {shlex.quote(str(file))}")
    for split in packed.splits:
        print(f"  {shlex.quote(f'{args.out}/{split}-*.tar')}")
