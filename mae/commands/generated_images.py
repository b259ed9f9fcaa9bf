"""Options, files and printed results that `mae sample`, `interpolate` and `edit` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mae.base.errors import UserError
from mae.commands.options import with_own_cache

if TYPE_CHECKING:
    from mae.pretrained_weights.opened import OpenedModel


def generator_argument(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument(
        "run", type=Path, help="run folder, one of its checkpoints, or a plain export"
    )


def output_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add --out, RUN/`name`.png by default, and --files."""
    parser.add_argument(
        "--out", type=Path, help=f"file ending in .png or .html (default: RUN/{name}.png)"
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="new folder for a PNG file of each image"
    )


def open_generator(args: argparse.Namespace) -> OpenedModel:
    """Model of RUN, with the cache options of this call.

    Raises UserError as `open_model`, and for a model of floats, which no image file can hold.
    """
    from mae.pretrained_weights.opened import open_model

    opened = open_model(args.run)
    if opened.config.data.is_float:
        raise UserError(
            f"{args.run}: was trained on floats (data.bits=32), not on images: {args.command} "
            "draws images; mae reconstruct and mae latents take floats"
        )
    return opened._replace(config=with_own_cache(opened.config, args))


def files_folder(files: Path | None) -> AbstractContextManager[Path | None]:
    """Folder that becomes --files at the end of the block, as `new_folder`; None without it."""
    from mae.base.files import new_folder

    return new_folder(files) if files else nullcontext()


def print_results(
    args: argparse.Namespace, lines: Sequence[str], notes: Sequence[str], pictures: Sequence[Path]
) -> None:
    """Print lines, then notes, then the paths of --files and of the pictures."""
    for line in lines:
        print(line)
    for line in notes:
        print(f"note: {line}")
    print("\n".join(map(str, [*([args.files] if args.files else []), *pictures])))
