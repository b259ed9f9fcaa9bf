"""`mae duplicates`: exact and near duplicates within a data set, and in another one."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.argument_types import natural, positive, share
from mae.commands.options import (
    TARS,
    add_command,
    encoding_options,
    feature_source_options,
    with_own_cache,
)

EPILOG = (
    "For each image the first one with the same bytes, else with the same pixels, else, as near "
    "duplicates, the one with a similar difference hash and, at 16 by 16 pixels, a similar gray "
    "picture, or those of the mirror image; --with "
    "adds those that are most alike by features. --against OTHER finds the images that are in "
    "another set, too: test images that were trained on. Writes a JSON file with all pairs and a "
    "page with pictures of some. Hashes find copies that were compressed or resized, not cropped "
    "ones."
)
PAGE = (".html", ".png")


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "duplicates", "find exact and near duplicates", run, EPILOG)
    parser.add_argument(
        "images", nargs="+", help=f"image files, folders of them, or shards: {TARS}"
    )
    parser.add_argument(
        "--against", nargs="+", help="further images: find those of the first that are there, too"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file with all pairs")
    parser.add_argument(
        "--picture", type=Path, help="page or picture of pairs, .html or .png (default: OUT.html)"
    )
    parser.add_argument("--count", type=positive, default=12, help="pairs of each kind shown")
    parser.add_argument(
        "--exact", action="store_true", help="same bytes or pixels alone, no near duplicates"
    )
    parser.add_argument(
        "--correlation",
        type=share,
        help="minimum correlation of the gray pictures of near duplicates (default: .93)",
    )
    parser.add_argument("--no-mirrored", action="store_true", help="leave mirror images out")
    parser.add_argument("--max-bad", type=natural, default=0, help="images that may be unusable")
    parser.add_argument(
        "--threshold",
        type=share,
        help="minimum similarity of features: cosine after the mean is subtracted (default: .98)",
    )
    feature_source_options(parser, is_optional=True)
    encoding_options(parser)


def run(args: argparse.Namespace) -> None:
    """Compare; write the JSON file and the page; print the counts.

    Raises UserError for options that contradict each other, and too many unusable images.
    """
    from mae.base.device import loader_count
    from mae.base.files import discard, write_json
    from mae.base.portion import launched_portion
    from mae.commands.chosen_features import open_chosen_features
    from mae.commands.pictures import write_sheet
    from mae.config.sections import Config
    from mae.data.file_manifest import open_files_or_shards
    from mae.evaluation.features import BATCH
    from mae.similarity.compared_sets import DuplicatesRequest, compare_sets
    from mae.similarity.duplicate_report import pairs_sheet, section, section_lines
    from mae.similarity.duplicates import CORRELATION, THRESHOLD

    picture = _check(args)
    correlation = CORRELATION if args.correlation is None else args.correlation
    portion, source = launched_portion(), None
    config = with_own_cache(Config(), args)
    if args.features:
        source = open_chosen_features(args, args.images, portion.log)
        config = source.config
    images, against = portion.first_before_others(
        lambda: [
            open_files_or_shards(patterns, key, config) if patterns else None
            for key, patterns in (("images", args.images), ("--against", args.against))
        ]
    )
    assert images is not None
    threshold = THRESHOLD if args.threshold is None else args.threshold
    result = compare_sets(
        DuplicatesRequest(
            images=images,
            out=args.out,
            against=against,
            correlation=None if args.exact else correlation,
            mirrored=not args.no_mirrored,
            source=source,
            threshold=threshold,
            max_bad=args.max_bad,
            batch_size=args.batch_size or BATCH,
            workers=loader_count(args.workers),
            portion=portion,
            log=portion.log,
        )
    )
    portion.leave_to_first()
    assert result is not None
    sections = [section(one) for one in result.comparisons]
    content = {
        "command": args.command,
        "images": args.images,
        "against": args.against,
        "correlation": None if args.exact else correlation,
        "mirrored": not (args.exact or args.no_mirrored),
        "features": args.features,
        "threshold": threshold if args.features else None,
        "unusable": result.unusable,
        "comparisons": sections,
    }
    shown = ""
    if any(one["pairs"] for one in sections):
        write_sheet(pairs_sheet("Duplicates", result.comparisons, args.count), picture)
        shown = f", {picture}"
    elif picture.is_file():
        discard(picture)  # of an earlier call: it would show pairs that the JSON file lacks
    write_json(args.out, content)
    for one in sections:
        for line in section_lines(one):
            print(line)
    print(f"{args.out}{shown}")


def _check(args: argparse.Namespace) -> Path:
    """File of the page; UserError for options that contradict each other, and wrong endings."""
    from mae.base.errors import UserError

    if args.out.suffix != ".json":
        raise UserError(f"--out: {args.out} must end in .json")
    picture = args.picture or args.out.with_suffix(".html")
    if picture.suffix not in PAGE:
        raise UserError(f"--picture: {picture} must end in {' or '.join(PAGE)}")
    if args.exact and (args.features or args.correlation is not None):
        raise UserError("--exact: looks for no near duplicates: leave out --with and --correlation")
    if args.features is None:
        given = [
            name for name in ("threshold", "feature", "channels", "bits") if getattr(args, name)
        ]
        if given:
            raise UserError(f"--{given[0]}: is for --with")
    return picture
