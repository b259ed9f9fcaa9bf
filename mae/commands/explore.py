"""`mae explore`: an embedded data set as one HTML page."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.errors import UserError
from mae.commands.argument_types import natural
from mae.commands.options import add_command

SUFFIXES = (".html", ".htm")
SIDES = (16, 128)
"""smallest and largest side of a thumbnail on the page"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "explore",
        "HTML page to look at an embedded data set: map, neighbours, duplicates, outliers",
        run,
        epilog="The page is one file that loads nothing. Columns of numbers and texts that the "
        "table has besides those of `mae embed` colour the map, too. Of tables by others only x "
        "and y are needed; neighbours that are missing are computed from the column vector.",
    )
    parser.add_argument("table", type=Path, help="Parquet file written by `mae embed`, or alike")
    parser.add_argument("--out", type=Path, help="HTML file (default: beside the table)")
    parser.add_argument("--title", help="title of the page (default: name of the table)")
    parser.add_argument(
        "--clusters",
        type=natural,
        help="number of clusters (default: as many as classes, or 12; 0: none)",
    )
    parser.add_argument(
        "--side",
        type=side,
        metavar="PIXELS",
        help="longest side of the thumbnails on the page "
        "(default: 64; 48 for more than 20,000 images, 32 for more than 60,000)",
    )
    parser.add_argument(
        "--scores", type=Path, help="JSON file of `mae anomaly score`, for a further colour"
    )


def side(text: str) -> int:
    """Side of a thumbnail within SIDES."""
    value = int(text)
    if not SIDES[0] <= value <= SIDES[1]:
        raise argparse.ArgumentTypeError(f"{text} is not in {SIDES[0]}..{SIDES[1]}")
    return value


def run(args: argparse.Namespace) -> None:
    """Write the page; print its path and size, and what it leaves out."""
    from mae.base.files import require_regular
    from mae.explore.content import Options, read_content
    from mae.explore.page import write_page
    from mae.explore.table import read_table

    require_regular(args.table)
    out = args.out or args.table.with_suffix(".html")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: {out} must end in {' or '.join(SUFFIXES)}")
    if out.resolve() == args.table.resolve():
        raise UserError(f"--out: {out} is the table: choose another name")
    table = read_table(args.table)
    options = Options(args.title, args.clusters, args.side, args.scores)
    content = read_content(table, options)
    write_page(content, out)
    for note in content.notes:
        print(f"note: {note}")
    if (trust := content.about["trust"]) is not None:
        drawn = f"; {trust['images']:,} images drawn at random" * (trust["images"] < table.rows)
        print(
            f"trustworthiness of the map {trust['map']:.3f}, of two principal components "
            f"{trust['pca']:.3f} (1: all neighbours on it are neighbours among the vectors{drawn})"
        )
    print(f"{out}: {table.rows:,} images, {out.stat().st_size / 1e6:.1f} MB")
