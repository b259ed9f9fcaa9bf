"""`mae decompress`: images from range-coded files of codes."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.options import (
    add_command,
    device_option,
    portion_of,
    portion_options,
)

EPILOG = (
    "Files of one image become DIR/NAME.png (or .tif), those of several a folder of them. Codes "
    "come back bit for bit, or the file is refused; pixels are those of the reconstruction, on "
    "another number of threads or device within one level."
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "decompress", "make images of compressed files", run, EPILOG)
    parser.add_argument("files", nargs="+", help="files of mae compress, or folders of them")
    parser.add_argument(
        "--with",
        dest="run",
        type=Path,
        required=True,
        metavar="RUN",
        help="the run that they were compressed with, its checkpoint, or a plain export of it",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for the images")
    parser.add_argument(
        "--tables",
        type=Path,
        nargs="+",
        default=[],
        help="files of tables, *.maet (default: those beside the files, or in a folder above)",
    )
    device_option(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Decompress into OUT; print the number of images.

    Raises UserError as `decompress`, and where a file is damaged or RUN has no codes.
    """
    from mae.commands.codecs import open_codec
    from mae.compression.decompress import (
        DecompressRequest,
        decompress,
        open_files,
        open_tables,
    )

    portion = portion_of(args)
    files = open_files(args.files)
    tables = open_tables(args.tables, files)
    codec = open_codec(args.run, args, portion.log).codec
    request = DecompressRequest(codec, str(args.run), files, tables, args.out, portion, portion.log)
    count = decompress(request)
    portion.leave_to_first()
    print(f"{args.out}: {count:,} images")
