"""`mae compress --report`: rate and distortion of a run beside other codecs."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.base.files import write_json
from mae.base.output import print_error
from mae.base.progress import ProgressLine
from mae.commands.codecs import OpenedCodec
from mae.commands.pictures import write_png
from mae.compression.comparison import (
    Compared,
    Curve,
    Point,
    compared_images,
    examples,
    measure_others,
    measure_own,
    original,
    verdict,
)
from mae.compression.compress import Row
from mae.compression.measuring import measured_pictures, tables_of
from mae.compression.other_codecs import Jpeg, PcaCodec, pillow_codecs
from mae.compression.results import Values
from mae.compression.sources import Picture, Source
from mae.compression.tables import Tables
from mae.data.transform import center_crop
from mae.pictures.drawing import displayable, tile
from mae.pictures.html import document, table, tag, text, void, write_document
from mae.pictures.plots import CSS, Line, Plot, drawn, rendered
from mae.pictures.sheet import data_uri

SHOWN = 4
"""images in the picture, and bad ones that a note names"""
SIDE = 192
"""maximum side in pixels of the parts of images that it shows"""
RATE = "bits per pixel, payload alone"


class Report(NamedTuple):
    """Curves of a run and other codecs, in words and pictures."""

    title: str
    own: Sequence[Curve]
    others: Sequence[Curve]
    lines: Sequence[str]
    notes: Sequence[str]
    skipped: Sequence[Row]
    """image and error"""
    panel: Image.Image

    @property
    def named(self) -> list[tuple[str, Curve]]:
        """All curves, with their names in plots and table."""
        own = [(f"this run, {curve.name}", curve) for curve in self.own]
        return own + [(curve.name, curve) for curve in self.others]


def report(
    args: argparse.Namespace,
    opened: OpenedCodec,
    source: Source,
    tables: Tables | Source | None,
    max_bad: int,
) -> None:
    """Compare; write the report, print the figures and what they say.

    `tables`: tables, or the images that they and the PCA coder are fitted on; None: the run's own
    images cannot be read.  Raises UserError where more than `max_bad` images cannot be compared.
    """
    codec, log = opened.codec, print_error
    tile = codec.tile(args.tiles)
    codes = codec.images(tile)
    images = compared_images(source, codec.data, codes, max_bad)
    fitted: Tables | None = None
    others = pillow_codecs()
    if isinstance(tables, Source):
        measured = list(measured_pictures(codes, codec.data, tables, log))
        fitted = tables_of(codec, codes, measured)
        others.append(PcaCodec(training(measured, images)))
    elif tables is not None:
        fitted = tables
    coders = {}
    if codec.coding.predict is not None:
        coders["prior"] = codec.coder(tile, None)
    if fitted is not None:
        coders["tables"] = codec.coder(tile, fitted)
    own = measure_own(
        {name: (coder, codec.header(coder)) for name, coder in coders.items()},
        float(np.log2(codec.coding.num_codes)),
        images,
    )
    curves = measure_others(
        others, images, ProgressLine("compressing by other codecs", "images", log)
    )
    made = Report(
        title=f"{args.run}: compression",
        own=own.curves,
        others=curves,
        lines=verdict(own.curves[0], curves),
        notes=notes_of(args, opened, images, fitted, curves),
        skipped=images.skipped,
        panel=panel_of(examples(own, others, images, curves, SHOWN), RATE),
    )
    write(args, opened, made)
    show(made)
    print(args.report)


def notes_of(
    args: argparse.Namespace,
    opened: OpenedCodec,
    images: Compared,
    tables: Tables | None,
    curves: Sequence[Curve],
) -> list[str]:
    """Sentences on images, rates and codecs; `tables`: those of the run, `curves`: of others."""
    step = "" if opened.opened.step is None else f", step {opened.opened.step:,}"
    notes = [
        f"{len(images.pictures):,} images at their own sizes, by {args.run}{step}. Rates are of "
        "all images together, PSNR and SSIM are means over them.",
        "Payload alone: JPEG's tables, the boxes of AVIF and WebP, and headers, names and "
        "checksums of our files are not counted; whole files are in the table.",
        f"Reading the files takes the weights, {opened.weights:,} bytes"
        + (f", and the tables, {len(tables.content):,} bytes" if tables else "")
        + ", which are not counted either.",
    ]
    names = {curve.name for curve in curves}
    if PcaCodec.name in names:
        notes.append(
            "The PCA coder rounds coefficients of 8 x 8 patches to one step, with tables of "
            "integers by component; it is fitted on the images that our tables are measured on."
        )
    if images.skipped:
        named = ", ".join(f"{one['image']} ({one['error']})" for one in images.skipped[:SHOWN])
        more = f" and {len(images.skipped) - SHOWN:,} more" if len(images.skipped) > SHOWN else ""
        notes.append(f"{len(images.skipped):,} skipped: {named}{more}.")
    if Jpeg.name not in names:
        notes.append("JPEG, WebP and AVIF hold 8 bits and one or three channels: left out here.")
    return notes


def training(measured: Sequence[Sequence[Picture]], images: Compared) -> list[Values]:
    """Pixels of the images that the PCA coder is fitted on: of the kind of the first compared."""
    first = images.truths[0]
    found = [original(one) for pictures in measured for one in pictures]
    same = [one for one in found if one.dtype == first.dtype and one.shape[2] == first.shape[2]]
    if not same:
        raise UserError("--tables: none of these images has the channels and bits of the others")
    return same


def panel_of(pictures: Mapping[str, Sequence[Values]], title: str) -> Image.Image:
    """Centres of pictures side by side, a column for each codec."""
    truths = as_batch(pictures["original"])
    columns = {}
    for heading, made in pictures.items():
        unit = as_batch(made)
        columns[heading] = displayable(truths, unit.float() / torch.iinfo(unit.dtype).max)
    return tile(columns, title)


def as_batch(pictures: Sequence[Values]) -> Tensor:
    """Centres [b c h w] of at most SIDE pixels."""
    whole = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    height, width = whole.shape[2:]
    return center_crop(whole, (min(height, SIDE), min(width, SIDE))).contiguous()


def plots(made: Report) -> list[Plot]:
    """PSNR, and SSIM where the images are large enough, over the rate."""
    found = []
    for key, words in (("psnr", "PSNR in dB"), ("ssim", "SSIM")):
        lines = [
            Line(name, [(one.bits_per_pixel, getattr(one, key)) for one in curve.points])
            for name, curve in made.named
        ]
        if all(np.isfinite(y) for line in lines for _, y in line.points):
            found.append(Plot(words, RATE, lines))
    return found


def write(args: argparse.Namespace, opened: OpenedCodec, made: Report) -> None:
    """Write the JSON file, and the page or picture beside it."""
    content = {
        "command": "compress --report",
        "run": str(args.run),
        "step": opened.opened.step,
        "objective": opened.opened.config.objective,
        "model_sha256": opened.codec.sha256,
        "weights": opened.weights,
        "own": {curve.name: [_row(one) for one in curve.points] for curve in made.own},
        "others": {curve.name: [_row(one) for one in curve.points] for curve in made.others},
        "verdict": list(made.lines),
        "notes": list(made.notes),
        "skipped": list(made.skipped),
    }
    write_json(args.report.with_suffix(".json"), content)
    ending = args.report.suffix.lower()
    if ending == ".png":
        write_png(drawn(plots(made)), args.report)
    elif ending == ".html":
        write_document(page(made), args.report)


def _row(point: Point) -> dict[str, Any]:
    row = point._asdict()
    return row | {"ssim": None if np.isnan(point.ssim) else point.ssim}


def page(made: Report) -> str:
    """Page with plots, words, table and pictures."""
    heads = ("codec", "setting", "bits per pixel", "whole files", "PSNR, dB", "SSIM")
    rows = [
        [text(word) for word in (name, *_figures(one))]
        for name, curve in made.named
        for one in curve.points
    ]
    body = tag(
        "main",
        tag("h1", text(made.title)),
        tag("p", text(f"{headline(made)}. On these images it:"), class_="lead"),
        tag("ul", *(tag("li", text(line)) for line in made.lines)),
        rendered(plots(made)),
        tag("h2", text("Pictures at about the same rate")),
        void(
            "img",
            src=data_uri(made.panel),
            alt="the same images by each codec",
            style="max-width: 100%; height: auto",
        ),
        tag("h2", text("Figures")),
        table(heads, rows),
        *(tag("p", tag("small", text(note))) for note in made.notes),
    )
    return document(made.title, body, CSS)


def headline(made: Report) -> str:
    """The run's own figures."""
    best = made.own[0]
    point = best.points[0]
    return f"This run, {best.name}: {point.bits_per_pixel:.3f} bits per pixel, {point.psnr:.2f} dB"


def _figures(point: Point) -> tuple[str, ...]:
    similar = "–" if np.isnan(point.ssim) else f"{point.ssim:.4f}"
    rates = f"{point.bits_per_pixel:.4f}", f"{point.whole_bits_per_pixel:.4f}"
    return point.setting or "–", *rates, f"{point.psnr:.2f}", similar


def show(made: Report) -> None:
    """Print the run's points and the verdict."""
    for curve in made.own:
        _, rate, whole, psnr, similar = _figures(curve.points[0])
        print(
            f"this run, {curve.name:18} {rate} bits per pixel ({whole} with headers)  {psnr} dB"
            f"  SSIM {similar}"
        )
    for line in made.lines:
        print(f"  {line}")
    for row in made.skipped:
        print(f"skipped: {row['image']}: {row['error']}")
