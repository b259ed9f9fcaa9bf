"""`mae interpolate`: images on the path between the latents of two images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from mae.commands.judged_images import judge_options, open_real, refuse_without_compare
from mae.commands.options import SHARDS, add_command, device_option, run_cache_options, seed_option

if TYPE_CHECKING:
    from mae.generation.interpolation import DecodedPath

EPILOG = (
    "For objectives with continuous latents that decode to images. Where the latents follow "
    "N(0, 1) (vae, beta_vae, ladder, aae) the path is spherical: draws of many dimensions lie near "
    "a sphere, which a straight line leaves; elsewhere it is straight. Latents are without noise. "
    "Below the decoded ends is their PSNR: what the model loses of the images themselves."
)
MOST_PAIRS = 16
"""maximum number of pairs"""
MOST_STEPS = 12
"""maximum number of steps on the sheet"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "interpolate", "images between two images, through latents", run, EPILOG
    )
    generator_argument(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="A B",
        help="pairs of image files; with --shards keys of samples, or numbers from 0",
    )
    parser.add_argument("--shards", nargs="+", metavar="SHARDS", help=SHARDS)
    parser.add_argument(
        "--steps",
        type=positive,
        default=8,
        help="images along a path, its ends included; the picture shows at most 12",
    )
    parser.add_argument(
        "--path", choices=("line", "sphere"), help="kind of path (default: by the objective)"
    )
    output_options(parser, "interpolation")
    judge_options(parser, "middles of paths between real images")
    seed_option(parser, "random seed of the judgement")
    device_option(parser)
    run_cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the picture, its JSON file and the files of single images; print their paths."""
    import torch

    from mae.base.device import choose_device
    from mae.base.files import write_json
    from mae.base.output import print_error
    from mae.base.printable import printable
    from mae.commands.judgement import judge_middles
    from mae.commands.numbered_images import load_named
    from mae.commands.pictures import model_title, picture_path, write_sheet
    from mae.generation.interpolation import decoded_paths
    from mae.generation.judging import judgement_notes, judgement_table
    from mae.generation.latents import open_latents
    from mae.pictures.latent_paths import PathPictures, paths_sheet
    from mae.pictures.samples import check_channels

    refuse_without_compare(args)
    _check_numbers(args)
    out, opened = picture_path(args, "interpolation"), open_generator(args)
    config, size = opened.config, opened.objective.img_size
    if args.files:
        check_channels(config.data.in_chans)
    device = choose_device(args.device)
    space = open_latents(opened, args.run, args.command, device)
    if args.path:
        space = space._replace(path=args.path)
    ends, names = load_named(args.images, args.shards, config, size)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    real = open_real(args, opened, device, print_error) if args.compare else None
    shares = torch.linspace(0, 1, args.steps, dtype=torch.float64).tolist()
    paths = decoded_paths(space, ends, shares)
    rows = _path_rows(paths, pairs)
    shown = torch.linspace(0, args.steps - 1, min(args.steps, MOST_STEPS)).round().long()
    pictures = [
        PathPictures(pair, images, path.steps[shown], path.psnr)
        for path, images, pair in zip(paths, ends.unflatten(0, (-1, 2)), pairs, strict=True)
    ]
    kind = {"sphere": "great circle", "line": "straight line"}[space.path]
    notes = [
        f"Decoded latents on the {kind} between those of two images, without noise, "
        f"{space.numbers:,} numbers each. Below the decoded ends: PSNR, what the model loses of "
        "the images themselves."
    ]
    if args.steps > MOST_STEPS:
        notes.append(f"{MOST_STEPS} of {args.steps:,} steps are shown.")
    report, lines = None, []
    with files_folder(args.files) as folder:
        files = _write_files(paths, config.data.bits, folder) if folder else []
        if real:
            report = judge_middles(space, real, args.judged, args.seed)
            lines = judgement_table(report, real.judge.name)
            notes += judgement_notes(report, real.judge.name)
    parts = [shares[place] for place in shown.tolist()]
    title = f"{model_title(args, opened)}: interpolation"
    write_sheet(paths_sheet(pictures, parts, title, notes), out)
    record = {
        "command": "interpolate",
        "run": str(args.run),
        "step": opened.step,
        "objective": config.objective,
        "path": space.path,
        "steps": args.steps,
        "latents": space.numbers,
        "pairs": rows,
        "folder": str(args.files) if args.files else None,
        "files": files,
        **({"judged": report} if report else {}),
    }
    write_json(out.with_suffix(".json"), record)
    print(f"path  {kind} between latents of {space.numbers:,} numbers")
    for row in rows:
        ends_psnr = " and ".join(f"{value:.1f}" for value in row["psnr"])
        both = f"{printable(row['first'])} – {printable(row['second'])}"
        print(f"{both}  ends decoded at {ends_psnr} dB")
    print_results(args, lines, (report or {}).get("findings", ()), [out])


def _check_numbers(args: argparse.Namespace) -> None:
    """Raise UserError for images that are no pairs, too many pairs or too few steps."""
    from mae.base.errors import UserError

    if len(args.images) % 2:
        raise UserError(f"A B: {len(args.images)} images are no pairs: name two for each path")
    pairs = len(args.images) // 2
    if args.steps < 3:
        raise UserError(f"--steps: {args.steps} has nothing between the ends: 3 or more")
    if pairs > MOST_PAIRS:
        raise UserError(f"A B: at most {MOST_PAIRS} pairs at a time, not {pairs}")


def _path_rows(
    paths: Sequence[DecodedPath], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Figures of each path between two named images, for the JSON file."""
    return [
        {
            "first": first.partition("\n")[0],
            "second": second.partition("\n")[0],
            "psnr": list(path.psnr),
            "latent_distance": path.latent_distance,
            "angle_degrees": path.angle_degrees,
        }
        for path, (first, second) in zip(paths, pairs, strict=True)
    ]


def _write_files(paths: Sequence[DecodedPath], bits: int, folder: Path) -> list[str]:
    """Write all images of all paths as PNG files; returns their names."""
    from mae.pictures.samples import write_pngs

    files: list[str] = []
    for number, path in enumerate(paths):
        own = [f"pair-{number:03d}-step-{step:03d}.png" for step in range(len(path.steps))]
        write_pngs(path.steps, bits, folder, own)
        files += own
    return files
