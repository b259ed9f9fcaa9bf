"""`mae denoise`: images with less noise, in their own format, depth and channels."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from PIL import Image

    from mae.base.portion import Portion
    from mae.evaluation.denoising_parts import DenoiseRequest, Example, Row
    from mae.pretrained_weights.opened import OpenedModel

EPILOG = (
    "For runs of dae (noise as in its training) and noise2void (learned from noisy images alone). "
    "Files keep their size, bits, channels, alpha and metadata; lossy ones become PNG. Shards "
    "become shards of the same names and keys. Large images go through tiles without seams. "
    "OUT.json has the measures of every image: whether what was removed looks like noise; OUT.png "
    "shows a few."
)
SHOWN = 6
"""images in the picture"""
SIDE = 192
"""maximum side in pixels of the parts of images that it shows"""
MOST_LETTERS = 100
"""maximum length of its title"""
FIGURES = {
    "noise_std": "noise of the images, standard deviation of 1",
    "noise_autocorrelation": "  its correlation between neighbours",
    "removed_std": "removed, standard deviation",
    "removed_mean": "  mean",
    "removed_autocorrelation": "  correlation between neighbours",
    "removed_with_result": "  correlation with the result",
}
"""measure → line to print of its median over the images"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "denoise", "remove noise from images", run, EPILOG)
    run_argument(parser)
    parser.add_argument("images", nargs="+", help="image files, folders of them, or shards")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the results")
    device_option(parser)
    run_cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Denoise; write OUT, OUT.json and OUT.png; print the measures and what they say.

    Raises UserError as `denoise_files`, and where the run is no denoiser.
    """
    from mae.base.files import read_json, require_new_folder
    from mae.commands.pictures import write_png
    from mae.data.image_files import are_image_files, image_files
    from mae.data.opening import open_images
    from mae.evaluation.denoising import denoise_files, denoise_shards
    from mae.pretrained_weights.opened import log_lines, open_model

    portion = portion_of(args)
    require_new_folder(args.out)
    opened = open_model(args.run, weight_options(args))
    log_lines(opened, portion.log)
    request = _request(args, opened, portion)
    report = args.out.with_name(f"{args.out.name}.json")

    def finish(rows: list[Row], examples: Iterator[Example]) -> None:
        write_png(_picture(args.run, examples), report.with_suffix(".png"))
        _write_report(report, args.run, opened, rows)

    if are_image_files(args.images):
        rows = denoise_files(image_files(args.images), request, finish)
    else:
        config = with_own_cache(opened.config, args)
        images = portion.first_before_others(
            lambda: open_images(args.images, "images", config, with_second=True, any_size=True)
        )
        if images.second is not None:
            portion.log("second images of pairs (KEY.b) are copied as they are")
        rows = denoise_shards(images, request, finish)
    portion.leave_to_first()
    for row in rows:
        if "error" in row:
            portion.log(f"skipped: {row['image']}: {row['error']}")
    found = read_json(report)
    _print_report(found, rows)
    skipped = f", {found['skipped']:,} skipped" if found["skipped"] else ""
    print(f"{args.out}: {found['denoised']:,} images{skipped}; details in {report}")


def _request(args: argparse.Namespace, opened: OpenedModel, portion: Portion) -> DenoiseRequest:
    """Denoiser of an opened run, and the destination; UserError where it is no denoiser."""
    from mae.base.device import choose_device
    from mae.evaluation.denoising_parts import DenoiseRequest
    from mae.evaluation.encoders import weights_sha256
    from mae.evaluation.features import missing_features
    from mae.objectives.registry import data_needs

    config, device = opened.config, choose_device(args.device)
    denoise: Any = getattr(opened.objective.to(device), "denoise", None)
    if denoise is None:
        raise missing_features(args.run, config.objective, "denoised images", "denoise")
    return DenoiseRequest(
        denoise=denoise,
        model=f"{weights_sha256(opened.objective)} {config.model.model_dump_json()} "
        f"{config.data.mean} {config.data.std} {config.data.in_chans} {config.data.bits}",
        data=config.data,
        lossless=data_needs(config).lossless,
        out=args.out,
        device=device,
        portion=portion,
    )


def _picture(run: Path, examples: Iterator[Example]) -> Image.Image:
    """Picture of the first images: noisy, denoised, what was removed."""
    from mae.evaluation.denoising_parts import previews
    from mae.networks.patches import unit_values
    from mae.pictures.denoising import denoised_columns
    from mae.pictures.drawing import tile

    names, before, after = previews(examples, SHOWN, SIDE)
    columns = denoised_columns(before, unit_values(after))
    title = f"{run}: " + ", ".join(name.rpartition("/")[2] for name in names)
    return tile(columns, title[:MOST_LETTERS])


def _write_report(report: Path, run: Path, opened: OpenedModel, rows: list[Row]) -> None:
    """Write the measures of all images, their medians and what they say."""
    from mae.base.files import write_json
    from mae.evaluation.residuals import Residual, findings, medians

    done = [row for row in rows if "error" not in row]
    measured = [Residual(**{name: row[name] for name in Residual._fields}) for row in done]
    content = {
        "command": "denoise",
        "run": str(run),
        "step": opened.step,
        "objective": opened.config.objective,
        "denoised": len(done),
        "skipped": len(rows) - len(done),
        "medians": medians(measured),
        "findings": findings(measured, getattr(opened.objective, "noise_std", None)),
        "images": rows,
    }
    write_json(report, content)


def _print_report(found: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print the medians of the measures, notes on files, and the findings."""
    for name, text in FIGURES.items():
        value = found["medians"][name]
        print(f"{text:46}{'–' if value is None else format(value, '+.3g')}")
    notes = Counter(row["note"] for row in rows if "note" in row)
    for note, count in notes.items():
        print(f"note: {count:,} image{'s' * (count > 1)}: {note}")
    for line in found["findings"]:
        print(f"warning: {line}")
