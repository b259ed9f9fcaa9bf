"""Pictures of a run: its objective, images of files or shards, the sheet that is written."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mae.base.device import choose_device
from mae.base.errors import UserError
from mae.base.output import print_error
from mae.commands.numbered_images import (
    Loaded,
    NumberedImages,
    load_images,
    open_numbered,
)
from mae.commands.options import weight_options, with_own_cache
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder, ObjectiveEncoder, frozen_encoder
from mae.evaluation.features import EncoderOutputs, encoder_outputs, missing_features
from mae.objectives.base import Objective
from mae.pictures.drawing import save_png
from mae.pictures.html import write_document
from mae.pictures.sheet import Sheet, draw_sheet, render_sheet
from mae.pretrained_weights.opened import OpenedModel, log_lines, open_model, results_folder

PICTURES = (".png", ".html")


class PictureSource(NamedTuple):
    """Objective of RUN on its device, in evaluation mode, for a command that draws."""

    args: argparse.Namespace
    """parsed command line, with `picture_options`"""
    opened: OpenedModel
    title: str
    """title of the sheet"""
    log: Callable[[str], None]

    @property
    def config(self) -> Config:
        """Settings of RUN."""
        return self.opened.config

    @property
    def objective(self) -> Objective:
        """Model of RUN."""
        return self.opened.objective

    def frozen(self) -> FrozenEncoder:
        """Encoder, for the cache of features."""
        return frozen_encoder(self.opened, self.objective)

    def lacking(self, what: str) -> UserError:
        """Error for an objective without `what`, which the command needs."""
        return missing_features(self.args.run, self.config.objective, what, self.args.command)

    def numbered(self, with_second: bool = False) -> NumberedImages:
        """All images of the command line; of pairs in shards the first, or `with_second` both."""
        return open_numbered(self.args.images, self.config, self.objective.img_size, with_second)

    def load(self, found: NumberedImages | None = None) -> Loaded:
        """The first --count images of the command line (or of `found`), on the device."""
        size, count = self.objective.img_size, self.args.count
        loaded = load_images(found or self.numbered(), size, count, self.log)
        return loaded._replace(images=loaded.images.to(choose_device(self.args.device)))

    def outputs(self) -> EncoderOutputs:
        """Vectors and tokens that the objective's encoder has."""
        objective, device = self.objective, choose_device(self.args.device)
        encode = ObjectiveEncoder(objective)
        return encoder_outputs(objective, encode, objective.img_size, self.config, device)

    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens; raises UserError where there are none."""
        size = self.outputs().patch_size
        if size is None:
            raise self.lacking("patch tokens")
        height, width = self.objective.img_size
        return height // size[0], width // size[1]


def open_picture_source(
    args: argparse.Namespace,
    what: str,
    with_decoder: bool = False,
    log: Callable[[str], None] = print_error,
) -> PictureSource:
    """The objective of `args.run`; `what` the sheet shows, for its title.

    Raises UserError as `open_model`.
    """
    opened = open_model(args.run, weight_options(args), with_decoder=with_decoder)
    log_lines(opened, log)
    opened = opened._replace(config=with_own_cache(opened.config, args))
    opened.objective.to(choose_device(args.device))
    return PictureSource(args, opened, f"{model_title(args, opened)}: {what}", log)


def model_title(args: argparse.Namespace, opened: OpenedModel) -> str:
    """The model in a title: RUN, and its step where that is known."""
    return str(args.run) if opened.step is None else f"{args.run}, step {opened.step:,}"


def picture_path(args: argparse.Namespace, name: str) -> Path:
    """--out, or `name`.png in the folder of results of RUN.  Raises as `require_picture`."""
    return require_picture(args.out or results_folder(args.run) / f"{name}.png")


def require_picture(out: Path) -> Path:
    """The same path; UserError where --out has another ending than .png or .html."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"--out: {out} must end in {' or '.join(PICTURES)}")
    return out


def write_sheet(sheet: Sheet, out: Path) -> None:
    """Write a PNG or an HTML page, by the ending of `out`; raises UserError if it cannot."""
    if out.suffix.lower() == ".html":
        write_document(render_sheet(sheet), out)
    else:
        write_png(draw_sheet(sheet), out)


def write_png(image: Image.Image, out: Path) -> None:
    """Write a PNG; raises UserError if it cannot be written."""
    try:
        save_png(image, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
