"""Pictures of a run: its objective, images of files or shards, the sheet that is written."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from mae.base.device import choose_device
from mae.base.errors import SampleError, UserError
from mae.commands.options import weight_options, with_own_cache
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.scan import NO_LABEL
from mae.data.training_data import open_images
from mae.data.transform import center_view, stack
from mae.decoding.decode import decode
from mae.decoding.pillow import BadImage
from mae.decoding.pixels import EXTENSIONS
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
    """as parsed, with `picture_options`"""
    opened: OpenedModel
    title: str
    """of the sheet"""

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

    def load(self, limit: int | None = None) -> "Loaded":
        """The first `limit` images of the command line (default: --count), on the device."""
        args = self.args
        size = self.objective.img_size
        loaded = load_images(args.images, self.config, size, limit or args.count)
        return loaded._replace(images=loaded.images.to(choose_device(args.device)))

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


class Loaded(NamedTuple):
    """Centred views of images, and their names."""

    images: Tensor
    """uint8 or uint16 [b c h w]"""
    names: list[str]
    first: Tensor
    """the first image [c h w] as decoded"""


def open_picture_source(
    args: argparse.Namespace, what: str, with_decoder: bool = False
) -> PictureSource:
    """The objective of `args.run`; `what` the sheet shows, for its title.

    Raises UserError as `open_model`.
    """
    opened = open_model(args.run, weight_options(args), with_decoder=with_decoder)
    log_lines(opened, log)
    opened = opened._replace(config=with_own_cache(opened.config, args))
    step = "" if opened.step is None else f", step {opened.step:,}"
    opened.objective.to(choose_device(args.device))
    return PictureSource(args, opened, f"{args.run}{step}: {what}")


def log(text: str) -> None:
    """Print a line about the model to stderr."""
    print(text, file=sys.stderr)


def load_images(
    sources: Sequence[str], config: Config, size: tuple[int, int], limit: int
) -> Loaded:
    """The first `limit` images of image files, or of shards, as centred views of `size` pixels.

    Images that do not decode are named on stderr and skipped.  Raises UserError where a file
    cannot be read or no image is usable.
    """
    if all(Path(source).suffix[1:].lower() in EXTENSIONS for source in sources):
        found = _of_files(sources, config)
    else:
        found = _of_shards(open_images(sources, "images", config))
    first = None
    images: list[Tensor] = []
    names: list[str] = []
    bad: list[str] = []
    for name, image in found:
        if isinstance(image, UserError):
            bad.append(str(image))
            continue
        first = image if first is None else first
        images.append(center_view(image, size, config.data.crop_pct))
        names.append(name)
        if len(images) == limit:
            break
    if first is None:
        none = f"none of {len(bad)} images is usable, first " if len(bad) > 1 else ""
        raise UserError(f"{none}{bad[0]}")
    for reason in bad:
        print(f"skipped  {reason}", file=sys.stderr)
    return Loaded(stack(images), names, first)


def _of_files(paths: Sequence[str], config: Config) -> Iterator[tuple[str, Tensor | UserError]]:
    for path in map(Path, paths):
        try:
            data, extension = path.read_bytes(), path.suffix[1:].lower()
            image = decode(data, extension, config.data.in_chans, config.data.bits)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            yield path.name, UserError(f"{path}: {error}")
        else:
            yield path.name, image


def _of_shards(images: Images) -> Iterator[tuple[str, Tensor | UserError]]:
    for number in range(len(images.manifest)):
        try:
            yield sample_name(images, number), images[number]
        except SampleError as error:
            yield "", error


def sample_name(images: Images, number: int) -> str:
    """The sample's key and, on a line of its own, its class where it has one."""
    key, label = images.manifest.key(number), int(images.manifest.label[number])
    short = key.rpartition("/")[2]
    return short if label == NO_LABEL else f"{short}\nclass {label}"


def picture_path(args: argparse.Namespace, name: str) -> Path:
    """--out, or `name`.png in the folder of results of RUN.

    Raises UserError where --out has another ending than .png or .html.
    """
    out = args.out or results_folder(args.run) / f"{name}.png"
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
