"""Tables of codes measured on some images of a source."""

from collections.abc import Iterable, Iterator
from typing import Any

from mae.base.errors import SampleError
from mae.base.progress import Progress, ProgressLine
from mae.compression.codec import Codec
from mae.compression.coding import TOGETHER, PictureCodes
from mae.compression.layout import Size
from mae.compression.sources import Picture, Source
from mae.compression.tables import CodeCounter, Tables
from mae.config.sections import DataConfig

MEASURED = 2000
"""maximum number of images that tables are measured on"""
MEASURED_PIXELS = 1 << 25
"""number of pixels after which no further ones are read for that"""


def measure_tables(codec: Codec, source: Source, tile: Size, log: Any = print) -> Tables:
    """Tables of the codes of some images of `source`, coded as files are; bad ones are skipped.

    Raises UserError where none can be used.
    """
    images = codec.images(tile)
    return tables_of(codec, images, measured_pictures(images, codec.data, source, log))


def tables_of(codec: Codec, images: PictureCodes, batches: Iterable[list[Picture]]) -> Tables:
    """Tables of the codes of all pictures.  Raises UserError where there are none."""
    counter = CodeCounter(codec.sha256, codec.coding.num_codes, images.grids(codec.img_size))
    for pictures in batches:
        for codes, grids in images.codes(pictures):
            counter.add(codes, grids)
    return counter.tables()


def measured_pictures(
    images: PictureCodes, data: DataConfig, source: Source, log: Any
) -> Iterator[list[Picture]]:
    """Yield some images of `source` in batches; `log` gets progress and the number of bad ones."""
    show: Progress = ProgressLine("measuring", "images", log)
    numbers = list(source.sample(MEASURED))
    pixels = bad = 0
    pictures: list[Picture] = []
    for done, number in enumerate(numbers):
        try:
            pictures.append(images.read(source, number, data))
        except SampleError:
            bad += 1
            continue
        pixels += pictures[-1].kind.pixels
        if len(pictures) == TOGETHER or pixels >= MEASURED_PIXELS:
            yield pictures
            pictures = []
            show(done, len(numbers))
        if pixels >= MEASURED_PIXELS:
            break
    if pictures:
        yield pictures
    if bad:
        many = "1 image is" if bad == 1 else f"{bad:,} images are"
        log(f"tables: {many} not readable, and not counted")
