"""Options of the commands around data: pack, index, verify."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import usable_cores
from mae.options.parsing import (
    amount,
    cache_options,
    command,
    natural,
    percent,
    positive,
    share,
)


def add_data_commands(commands: Any) -> None:
    """`mae pack`, `index`, `verify`."""
    pack = command(commands, "data", "pack", "pack images into shards")
    pack.add_argument(
        "sources",
        nargs="+",
        help="a folder, searched below; a .csv, .tsv or .parquet of paths; torchvision:NAME; tars",
    )
    pack.add_argument("out", type=Path, help="new folder for the shards")
    pack.add_argument("--shard-size", type=positive, default=1000, help="images per shard")
    pack.add_argument("--shard-mb", type=amount, help="megabytes per shard, at most")
    pack.add_argument("--val", type=share, default=0.0, help="share set aside as val-*.tar")
    pack.add_argument("--seed", type=natural, default=0, help="of the shuffle")
    pack.add_argument("--workers", type=natural, default=usable_cores(), help="processes")
    pack.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="top-level folders are classes (default: where no image lies outside of one)",
    )
    pack.add_argument("--path-column", default="path", help="of a table")
    pack.add_argument("--label-column", help="of a table (`label`, if there is one)")
    pack.add_argument(
        "--root", type=Path, default=Path("data"), help="torchvision's folder, for downloads too"
    )
    pack.add_argument(
        "--resize",
        type=positive,
        help="reduce the short side to so many pixels (of .npy: the channels are the first or the "
        "last axis, whichever is clearly the shorter)",
    )
    pack.add_argument("--quality", type=percent, help="re-encode as JPEG of this quality")
    pack.add_argument("--drop-duplicates", action="store_true", help="leave exact copies out")
    cache_options(pack)

    index = command(commands, "data", "index", "read and cache the index of shards")
    index.add_argument("shards", nargs="+", help="tars: paths, addresses, brace patterns, globs")
    index.add_argument("--index-dir", type=Path, help="cache folder (beside the shards if unset)")
    index.add_argument("--stats", action="store_true", help="measure mean and std of the pixels")
    index.add_argument("--wds2idx", action="store_true", help="write .idx files for NVIDIA DALI")
    index.add_argument("--wids", type=Path, help="write this index.json for webdataset's wids")
    cache_options(index)

    verify = command(commands, "data", "verify", "decode everything, name what is bad")
    verify.add_argument("shards", nargs="+", help="tars: paths, addresses, brace patterns, globs")
    verify.add_argument("--index-dir", type=Path, help="cache folder of the indexes")
    verify.add_argument("--workers", type=natural, default=usable_cores(), help="processes")
    cache_options(verify)
