"""`mae edit`: images with more of an attribute, by arithmetic with latents."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.commands.argument_types import positive
from mae.commands.generated_images import (
    files_folder,
    generator_argument,
    open_generator,
    output_options,
    print_results,
)
from mae.commands.options import (
    IMAGES,
    SHARDS,
    add_command,
    device_option,
    run_cache_options,
    seed_option,
    workers_option,
)

if TYPE_CHECKING:
    from mae.commands.numbered_images import Loaded
    from mae.generation.editing import Editor
    from mae.pictures.edits import Edited

EPILOG = (
    "For objectives with continuous latents that decode to images. The attribute vector is the "
    "mean latent of the images of a class minus that of the others (of --from alone); strength 1 "
    "moves an average image without the attribute to the average with it. What the edit does is "
    "measured on held-out labelled images by a probe that is fitted to real images in the features "
    "of another encoder, beside two trivial edits: a random direction of the same length, and the "
    "same arithmetic with pixels."
)
STRENGTHS = (0.5, 1.0, 1.5)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "edit", "add an attribute to images, through latents", run, EPILOG
    )
    generator_argument(parser)
    parser.add_argument("images", nargs="+", help=IMAGES)
    parser.add_argument(
        "--direction", nargs="+", required=True, metavar="SHARDS", help=f"labelled images: {SHARDS}"
    )
    parser.add_argument(
        "--attribute", required=True, metavar="CLASS", help="class to add: its name or number"
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="CLASS",
        help="class to replace; of labelled IMAGES those of this class are edited",
    )
    parser.add_argument(
        "--strength",
        type=float,
        nargs="+",
        default=list(STRENGTHS),
        help="multiples of the attribute vector; negative ones remove the attribute",
    )
    parser.add_argument(
        "--test",
        nargs="+",
        metavar="SHARDS",
        help="held-out labelled images to measure the edit on (default: a fifth of --direction, "
        "which is then left out of vector and probe)",
    )
    parser.add_argument(
        "--judge",
        metavar="ENCODER",
        help="run, export, file of weights, timm:NAME of another encoder, for the probe (default: "
        "a fixed random convolutional network)",
    )
    parser.add_argument("--count", type=positive, default=8, help="maximum number of images edited")
    output_options(parser, "edit")
    seed_option(parser, "random seed of the split and of the random direction")
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture, its JSON file and the files of single images; print the measures."""
    from mae.base.device import choose_device
    from mae.base.errors import UserError
    from mae.base.files import write_json
    from mae.base.output import print_error
    from mae.commands.edited_images import load_edited, open_editor
    from mae.commands.pictures import model_title, picture_path, write_sheet
    from mae.generation.editing import edit_table, measure_edit
    from mae.generation.latents import open_latents
    from mae.pictures.edits import edits_sheet
    from mae.pictures.samples import check_channels

    log: Callable[[str], None] = print_error
    if unusable := [one for one in args.strength if not abs(one) < float("inf") or one == 0]:
        raise UserError(f"--strength: {unusable[0]:g} edits nothing: numbers other than 0")
    strengths = list(dict.fromkeys(args.strength))
    out, opened = picture_path(args, "edit"), open_generator(args)
    config = opened.config
    device = choose_device(args.device)
    space = open_latents(opened, args.run, args.command, device)
    if args.files:
        check_channels(config.data.in_chans)
    found = open_editor(args, space, device, log)
    editor, attribute = found.editor, found.editor.attribute
    loaded = load_edited(args, space, attribute, log)
    report = measure_edit(
        editor, found.labelled, found.held_out, strengths, found.reading, args.seed
    )
    edits = [0.0, *strengths]
    columns = _edited_columns(editor, loaded, edits)
    direction, named = editor.direction, attribute.name(attribute.target)
    notes = [
        f"Decoded latents, moved towards {attribute}: the mean of {direction.with_it:,} images "
        f"with it minus that of {direction.without:,} without, times the strength. Below: "
        f"probability of {named} by a probe of another encoder ({editor.judge.name})."
    ]
    findings = list(found.notes)
    if report is None:
        findings.append("nothing was measured: no held-out image is without the attribute")
    else:
        findings += report["findings"]
    notes += [f"{line[0].upper()}{line[1:]}." for line in findings]
    with files_folder(args.files) as folder:
        files = _write_files(columns[1:], edits, config.data.bits, folder) if folder else []
        title = f"{model_title(args, opened)}: {attribute}"
        write_sheet(edits_sheet(loaded.images, columns, title, notes), out)
    record = {
        "command": "edit",
        "run": str(args.run),
        "step": opened.step,
        "objective": config.objective,
        "attribute": attribute.target,
        "from": attribute.source,
        "class_names": list(attribute.class_names),
        "strengths": strengths,
        "direction": {
            "with": direction.with_it,
            "without": direction.without,
            "length": direction.vector.norm().item(),
            "latents": space.numbers,
        },
        "images": [name.partition("\n")[0] for name in loaded.names],
        "skipped": loaded.bad,
        "folder": str(args.files) if args.files else None,
        "files": files,
        "measured": report,
        "notes": findings,
    }
    write_json(out.with_suffix(".json"), record)
    print(
        f"attribute: {attribute}; {direction.with_it:,} images with it, {direction.without:,} "
        f"without; a vector of {space.numbers:,} numbers of length "
        f"{direction.vector.norm().item():.2f}"
    )
    lines = edit_table(report, attribute) if report else []
    print_results(args, lines, findings, [out])


def _edited_columns(editor: Editor, loaded: Loaded, strengths: Sequence[float]) -> list[Edited]:
    """Images as they are, then decoded at each of `strengths`, with the probability of the class.

    A strength of 0 is no edit.
    """
    from mae.pictures.edits import Edited
    from mae.pictures.reconstruction import unit

    latents = editor.space.encode(loaded.images)
    named = editor.attribute.name(editor.attribute.target)
    columns = [Edited("original", unit(loaded.images), loaded.names)]
    for strength in strengths:
        made = editor.edited(latents, strength)
        shares = [f"{named} {share:.0%}" for share in editor.target_probability(made)]
        columns.append(Edited(f"strength {strength:g}" if strength else "decoded", made, shares))
    return columns


def _write_files(
    columns: Sequence[Edited], strengths: Sequence[float], bits: int, folder: Path
) -> list[str]:
    """Write the images of each strength as PNG files; returns their names."""
    from mae.pictures.samples import write_pngs

    files: list[str] = []
    for strength, column in zip(strengths, columns, strict=True):
        numbers = range(len(column.images))
        own = [f"image-{number:03d}-strength{strength:+g}.png" for number in numbers]
        write_pngs(column.images, bits, folder, own)
        files += own
    return files
