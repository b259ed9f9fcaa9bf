"""The decoding and resizing of our pipeline with nothing around it."""

import time
from typing import NamedTuple

import numpy as np
import torch

from mae.bench.pipelines import SEED, our_order
from mae.config import DataConfig
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.transform import View, apply_view_into, draw_views, random_view
from mae.decoding.decode import decode
from mae.decoding.formats import EXTENSIONS
from mae.hashing import Stream, fold


class Parts(NamedTuple):
    """Seconds of a batch."""

    both: float
    decoding: float
    resizing: float


class _Work(NamedTuple):
    data: bytearray
    extension: str
    view: View


class Bare:
    """Batch by batch the work of `our_batches`: same images, same crops.

    Their bytes are in memory and their crop boxes known before the clock starts.
    """

    def __init__(self, manifest: Manifest, size: tuple[int, int], batch_size: int) -> None:
        self.size, self.batch_size = size, batch_size
        self.config = DataConfig()
        self.order = our_order(manifest, batch_size, self.config)
        images = Images(manifest, channels=3)
        everything = range(len(manifest))
        self.data = [images.reader.read(sample) for sample in everything]
        self.extensions = [EXTENSIONS[kind] for kind in manifest.kind.tolist()]
        shapes = [images[sample].shape for sample in everything]
        self.sides = [(height, width) for _, height, width in shapes]
        self.position = 0

    def next_batch(self) -> Parts:
        """Work off the next batch."""
        works = self._work()
        decoding = resizing = 0.0
        clock = time.perf_counter
        begin = clock()
        out = torch.empty(len(works), 3, *self.size, dtype=torch.uint8)
        for (data, extension, view), row in zip(works, out, strict=True):
            start = clock()
            image = decode(data, extension, 3)
            between = clock()
            apply_view_into(image, view, row)
            decoding += between - start
            resizing += clock() - between
        return Parts(clock() - begin, decoding, resizing)

    def _work(self) -> list[_Work]:
        place = self.order(np.arange(self.position, self.position + self.batch_size))
        self.position += self.batch_size
        draws = draw_views(fold(SEED, Stream.VIEW, place.view, place.sample))
        config, works = self.config, []
        for sample, row in zip(place.sample.tolist(), draws, strict=True):
            height, width = self.sides[sample]
            view = random_view(height, width, row, config.scale, config.ratio, config.flip)
            works.append(_Work(self.data[sample], self.extensions[sample], view))
        return works
