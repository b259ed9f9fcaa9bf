"""Options of the commands that draw."""

import argparse
from pathlib import Path
from typing import Any

from mae.options.parsing import command, device_option, natural, positive, share

COLUMNS = ("original", "masked", "reconstruction", "raw", "error")


def add_picture_commands(commands: Any) -> None:
    """`mae reconstruct`, `attention`, `pca`, `neighbours`."""
    _add_reconstruct(commands)
    attention = command(
        commands, "pictures", "attention", "where the last block of the encoder looks"
    )
    _common(attention, "attention")

    pca = command(
        commands, "pictures", "pca", "principal components of the patch tokens as colours"
    )
    _common(pca, "pca")
    pca.add_argument(
        "--foreground",
        type=share,
        metavar="SHARE",
        help="leave patches out whose first component is below this, then fit again",
    )

    pca.add_argument(
        "--contents",
        action="store_true",
        help="without what the images have in common at each place, so that contents show",
    )

    near = command(commands, "pictures", "neighbours", "the images nearest to given ones")
    _common(near, "neighbours")
    near.add_argument("--among", nargs="+", required=True, help="shards to search")
    near.add_argument("-k", type=positive, default=6, help="neighbours of each image")
    near.add_argument("--workers", type=natural, default=0, help="decoding processes")


def _add_reconstruct(commands: Any) -> None:
    show = command(
        commands,
        "pictures",
        "reconstruct",
        "reconstructions beside the originals; R² on hidden patches or, where nothing is hidden, "
        "PSNR",
    )
    _common(show, "reconstruction")
    show.add_argument(
        "--mask",
        metavar="PATTERN",
        help="where the objective hides patches: random (if unset), block, grid (one patch of four "
        "stays visible), or a PNG, stretched over the image as shown, whose white parts are hidden",
    )
    show.add_argument(
        "--mask-ratio",
        type=share,
        nargs="+",
        default=[],
        metavar="SHARE",
        help="share of the patches to hide, or several side by side (the run's own if unset)",
    )
    show.add_argument(
        "--columns",
        nargs="+",
        choices=COLUMNS,
        metavar="COLUMN",
        help=f"of {', '.join(COLUMNS)} (all there are if unset; of several ratios the first three)",
    )
    show.add_argument(
        "--measured",
        "--r2-images",
        type=positive,
        default=512,
        metavar="IMAGES",
        help="images that R² or PSNR is measured on, at most",
    )
    show.add_argument("--seed", type=natural, default=0, help="of the masks, or of other noise")


def _common(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("run", type=Path, help="run folder, or one of its checkpoints")
    parser.add_argument("images", nargs="+", help="images, or shards")
    parser.add_argument(
        "--out", type=Path, help=f"file ending in .png or .html (RUN/{name}.png if unset)"
    )
    parser.add_argument("--count", type=positive, default=8, help="images shown, at most")
    device_option(parser)
