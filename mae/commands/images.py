"""Images of files and shards for the commands that draw, and the files they write."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.config.sections import Config
from mae.data.images import Images
from mae.data.scan import NO_LABEL
from mae.data.training_data import open_images
from mae.data.transform import center_view, stack
from mae.data.views import CentredViews
from mae.decoding.decode import decode
from mae.decoding.pillow import BadImage
from mae.decoding.pixels import EXTENSIONS
from mae.pictures.drawing import save_png
from mae.pictures.html import write_document
from mae.pictures.sheet import Sheet, draw_sheet, render_sheet

PICTURES = (".png", ".html")


class Loaded(NamedTuple):
    """Centred views, and what to call them."""

    images: Tensor
    """uint8 or uint16 [b c h w]"""
    names: list[str]


def load_images(
    sources: Sequence[str], config: Config, size: tuple[int, int], limit: int
) -> Loaded:
    """The first `limit` images of image files, or else of shards, as centred views of `size`.

    Bad ones are named on stderr and skipped.  Raises UserError where a file cannot be read or no
    image is usable.
    """
    if all(Path(source).suffix[1:].lower() in EXTENSIONS for source in sources):
        found = _of_files(sources, config, size)
    else:
        found = _of_shards(open_images(sources, "images", config), config, size)
    images: list[Tensor] = []
    names: list[str] = []
    bad: list[str] = []
    for name, image in found:
        if isinstance(image, UserError):
            bad.append(str(image))
            continue
        images.append(image)
        names.append(name)
        if len(images) == limit:
            break
    if not images:
        none = f"none of {len(bad)} images is usable, first " if len(bad) > 1 else ""
        raise UserError(f"{none}{bad[0]}")
    for reason in bad:
        print(f"skipped  {reason}", file=sys.stderr)
    return Loaded(stack(images), names)


def _of_files(
    paths: Sequence[str], config: Config, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor | UserError]]:
    for path in map(Path, paths):
        try:
            data, extension = path.read_bytes(), path.suffix[1:].lower()
            image = decode(data, extension, config.data.in_chans, config.data.bits)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except BadImage as error:
            yield path.name, UserError(f"{path}: {error}")
        else:
            yield path.name, center_view(image, size, config.data.crop_pct)


def _of_shards(
    images: Images, config: Config, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor | UserError]]:
    views = CentredViews(images, size, config.data.crop_pct)
    for number in range(len(views)):
        try:
            yield sample_name(images, number), views.view(number)
        except SampleError as error:
            yield "", error


def sample_name(images: Images, number: int) -> str:
    """The sample's key and, on a line of its own, its class where it has one."""
    key, label = images.manifest.key(number), int(images.manifest.label[number])
    short = key.rpartition("/")[2]
    return short if label == NO_LABEL else f"{short}\nclass {label}"


def check_picture(out: Path) -> Path:
    """`out`, if its ending tells how to write it; UserError else."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"--out: {out} must end in {' or '.join(PICTURES)}")
    return out


def write_sheet(sheet: Sheet, out: Path) -> None:
    """Write a PNG or, where `out` is named so, an HTML page; UserError where that cannot be."""
    if out.suffix.lower() == ".html":
        write_document(render_sheet(sheet), out)
    else:
        write_png(draw_sheet(sheet), out)


def write_png(image: Image.Image, out: Path) -> None:
    """UserError where `out` cannot be written."""
    try:
        save_png(image, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
