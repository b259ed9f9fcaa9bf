"""`mae compress`: images as range-coded files of codes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.commands.argument_types import natural
from mae.commands.options import (
    add_command,
    device_option,
    portion_of,
    portion_options,
    run_argument,
    run_cache_options,
    weight_options,
    with_own_cache,
)

if TYPE_CHECKING:
    from mae.commands.codecs import OpenedCodec
    from mae.compression.compress import Compressed
    from mae.compression.sources import Source
    from mae.compression.tables import Tables

EPILOG = (
    "For runs of vqvae, vqvae2 and fsq, and of a prior over their codes. Each image file becomes a "
    "file *.maec, each shard one of all its images; other members of shards stay where they are. "
    "Codes are written by tables of integers (codes.maet, which goes with the files), and decode "
    "on any machine; those of a prior need the build of torch that the files name. Sizes stay: "
    "convolutional models take images whole, others in tiles. `mae decompress` makes images again."
)
ENDINGS = (".html", ".png", ".json")
"""of --report"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "compress", "compress images by their codes", run, EPILOG)
    run_argument(parser)
    parser.add_argument("images", nargs="+", help="image files, folders of them, or shards")
    parser.add_argument("--out", type=Path, help="new folder for the compressed files")
    parser.add_argument(
        "--report",
        type=Path,
        help="rate and distortion beside JPEG, WebP, AVIF and PCA on the same images: file ending "
        "in .html, .png or .json",
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        metavar="SOURCE",
        help="file of tables (*.maet), or images to measure them on (default: the run's training "
        "shards)",
    )
    parser.add_argument(
        "--together", action="store_true", help="one file for all images, instead of several"
    )
    parser.add_argument(
        "--tiles",
        action="store_true",
        help="code images in tiles of the model's size, although it takes them whole",
    )
    parser.add_argument(
        "--max-bad", type=natural, help="images that may be left out (default: data.max_bad of RUN)"
    )
    device_option(parser)
    run_cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Compress; write OUT and OUT.json, or the report; print sizes.

    Raises UserError as `compress`, and where RUN has no codes.
    """
    from mae.base.errors import UserError
    from mae.commands.codecs import open_codec
    from mae.compression.compress import CompressRequest, compress

    if not (args.out or args.report):
        raise UserError("neither --out DIR nor --report FILE: say what to make")
    portion = portion_of(args)
    if args.report and args.report.suffix.lower() not in ENDINGS:
        raise UserError(f"--report: {args.report} must end in {', '.join(ENDINGS)}")
    if args.out and args.report and _same(args.report.with_suffix(".json"), report_path(args)):
        raise UserError(
            f"--report: {args.report} has a JSON file of its own, which would replace "
            f"{report_path(args)}, the record of --out: give it another name"
        )
    opened = open_codec(args.run, args, portion.log, weight_options(args))
    predicts = opened.codec.coding.predict is not None
    source, tables = portion.first_before_others(
        lambda: (open_source(args.images, "images", args, opened), open_tables(args, opened))
    )
    max_bad = opened.opened.config.data.max_bad if args.max_bad is None else args.max_bad
    if args.out:
        request = CompressRequest(
            codec=opened.codec,
            source=source,
            out=args.out,
            tables=tables if args.tables or not predicts else None,
            tiled=args.tiles,
            max_bad=max_bad,
            portion=portion,
            log=portion.log,
            finish=lambda found: write_report(args, opened, found),
        )
        found = compress(request)
        portion.leave_to_first()
        assert found is not None
        show(args, opened, found)
    if args.report:
        from mae.commands.compression_report import report

        portion.leave_to_first()
        report(args, opened, source, tables, max_bad)


def open_source(
    sources: list[str], key: str, args: argparse.Namespace, opened: "OpenedCodec"
) -> "Source":
    """Images of files, folders or shards.  Raises UserError where they cannot be read."""
    from mae.compression.sources import file_source, shard_source
    from mae.data.image_files import are_image_files, image_files
    from mae.data.opening import open_images

    if are_image_files(sources):
        return file_source(image_files(sources), args.together)
    config = with_own_cache(opened.opened.config, args)
    images = open_images(sources, key, config, any_size=True)
    return shard_source(images, args.together)


def open_tables(args: argparse.Namespace, opened: "OpenedCodec") -> "Tables | Source | None":
    """Tables of --tables, or the images that they are measured on; None: RUN predicts its codes.

    Raises UserError where they cannot be read.
    """
    from mae.base.errors import UserError
    from mae.compression.tables import ENDING, read_tables

    if args.tables and all(one.endswith(ENDING) for one in args.tables):
        if len(args.tables) > 1:
            raise UserError("--tables: one file of tables, or images to measure them on")
        return read_tables(Path(args.tables[0]))
    if args.tables:
        return open_source(args.tables, "--tables", args, opened)
    if opened.codec.coding.predict is not None and not args.report:
        return None
    train = list(opened.opened.config.data.train)
    try:
        if not train:
            raise UserError(f"{args.run}: names no training shards")
        return open_source(train, "data.train", args, opened)
    except UserError as error:
        raise UserError(f"{error}; --tables SHARDS gives others to measure tables on") from None


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def report_path(args: argparse.Namespace) -> Path:
    """OUT.json."""
    return args.out.with_name(f"{args.out.name}.json")


def coded_by(opened: "OpenedCodec", found: "Compressed") -> str:
    """Source of the frequencies that the codes were written by."""
    return "the tables" if found.tables or not opened.codec.coding.predict else "the prior"


def write_report(args: argparse.Namespace, opened: "OpenedCodec", found: "Compressed") -> None:
    """Write OUT.json."""
    from mae.base.files import write_json

    content = {
        "command": "compress",
        "run": str(args.run),
        "step": opened.opened.step,
        "objective": opened.opened.config.objective,
        "model_sha256": opened.codec.sha256,
        "coded_by": coded_by(opened, found),
        **{key: getattr(found, key) for key in found._fields if key != "skipped"},
        "payload_bits_per_pixel": 8 * found.payload / found.pixels,
        "bits_per_pixel": 8 * found.total / found.pixels,
        "payload_over_entropy": found.over_entropy,
        "weights": opened.weights,
        "skipped": list(found.skipped),
    }
    write_json(report_path(args), content)


def show(args: argparse.Namespace, opened: "OpenedCodec", found: "Compressed") -> None:
    """Print the sizes."""
    per_pixel = 8 / found.pixels
    by, over = coded_by(opened, found), found.over_entropy
    print(f"payload   {found.payload:13,} bytes  {found.payload * per_pixel:.4f} bits per pixel")
    print(f"entropy   {found.ideal:13,.0f} bytes  by {by}; the payload has {over:+.2%}")
    print(
        f"files     {found.total:13,} bytes  {found.total * per_pixel:.4f} bits per pixel, with "
        "headers, names and checksums"
    )
    if found.tables:
        print(f"tables    {found.tables:13,} bytes  once for all files")
    print(f"weights   {opened.weights:13,} bytes  of {args.run}, which reading needs")
    for row in found.skipped:
        print(f"skipped: {row['image']}: {row['error']}")
    skipped = f", {len(found.skipped):,} skipped" if found.skipped else ""
    files = f"{found.files:,} file{'s' * (found.files > 1)}"
    details = report_path(args)
    print(f"{args.out}: {found.images:,} images in {files}{skipped}; details in {details}")
