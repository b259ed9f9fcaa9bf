"""`mae pca`: principal components of patch tokens as colours."""

import argparse
from typing import Any

from mae.commands.argument_types import share
from mae.commands.options import add_command, picture_options


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "pca", "picture of principal components of patch tokens", run)
    picture_options(parser, "pca")
    parser.add_argument(
        "--foreground",
        type=share,
        metavar="SHARE",
        help="drop patches whose first component, scaled to [0, 1], is below this; then fit again",
    )
    parser.add_argument(
        "--contents",
        action="store_true",
        help="subtract the mean token of each position first, so that contents show, not positions",
    )


def run(args: argparse.Namespace) -> None:
    """Write the picture; print its path."""
    import torch

    from mae.commands.pictures import open_picture_source, picture_path, write_sheet
    from mae.evaluation.encoders import TOKENS, ObjectiveEncoder
    from mae.pictures.components import (
        components_sheet,
        principal_components,
        without_position_mean,
    )
    from mae.pictures.reconstruction import BATCH

    out = picture_path(args, "pca")
    source = open_picture_source(args, "principal components of patch tokens")
    grid, encode = source.token_grid(), ObjectiveEncoder(source.objective)
    images, names, *_ = source.load()
    with torch.no_grad():
        tokens = torch.cat([encode(part)[TOKENS].cpu() for part in images.split(BATCH)])
    if args.contents:
        tokens = without_position_mean(tokens)
    components = principal_components(tokens, grid, args.foreground)
    sheet = components_sheet(
        images, names, components, grid, source.title, has_places=not args.contents
    )
    write_sheet(sheet, out)
    print(out)
