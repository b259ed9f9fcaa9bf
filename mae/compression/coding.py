"""Pictures → codes → payload of a block, and back."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.compression.code_models import Model
from mae.compression.container import Block, Kind
from mae.compression.layout import (
    LARGEST_WHOLE,
    WHOLE,
    Grids,
    Size,
    batches,
    joined,
    parts_of,
    split,
)
from mae.compression.range_coder import Decoder, encode
from mae.compression.sources import Picture, Source
from mae.compression.tables import Counts
from mae.config.sections import DataConfig
from mae.objectives.capabilities import ImageCoding

TOGETHER = 64
"""maximum number of images of a block"""


class PictureCodes(NamedTuple):
    """Images as codes and back, in batches that follow from their sizes alone."""

    coding: ImageCoding
    tile: Size
    """(0, 0): images are coded whole"""
    device: torch.device | str = "cpu"

    def check_size(self, kind: Kind) -> None:
        """Raise SampleError for an image that is too large to be coded whole."""
        if self.tile == WHOLE and kind.pixels > LARGEST_WHOLE:
            raise SampleError(
                f"{kind.height} x {kind.width} pixels are too many to code whole: use --tiles"
            )

    def read(self, source: Source, number: int, data: DataConfig) -> Picture:
        """Image of `source`.  Raises SampleError where it cannot be used, or coded."""
        found = source.picture(number, data.in_chans, data.bits)
        self.check_size(found.kind)
        return found

    def parts_of(self, kind: Kind) -> tuple[int, Size]:
        """Number and size of the parts of an image."""
        return parts_of((kind.height, kind.width), self.coding, self.tile)

    def batches(self, kinds: Sequence[Kind]) -> Iterator[tuple[range, Grids]]:
        """Yield the numbers of the parts in each batch, and the maps of its codes."""
        parts = [self.parts_of(kind) for kind in kinds]
        grids = {size: self.grids(size) for _, size in parts}
        counted = {size: sum(map(prod, own)) for size, own in grids.items()}
        each = [size for count, size in parts for _ in range(count)]
        for numbers in batches(parts, counted if self.coding.predict else {}):
            yield numbers, grids[each[numbers[0]]]

    def grids(self, size: Size) -> list[tuple[int, int]]:
        """Rows and columns of the maps of a part of `size`."""
        return [(size[0] // down, size[1] // across) for down, across in self.coding.strides]

    @torch.no_grad()
    def codes(self, pictures: Sequence[Picture]) -> Iterator[tuple[Counts, Grids]]:
        """Yield the codes [b n] of pictures batch by batch, and the maps that they are of."""
        parts: list[Tensor] = []
        for one in pictures:
            parts += split(one.pixels, self.parts_of(one.kind)[1], self.tile)
        for numbers, grids in self.batches([one.kind for one in pictures]):
            images = torch.stack([parts[number] for number in numbers]).to(self.device)
            maps = [one.cpu() for one in self.coding.encode(images)]
            yield torch.cat([one.flatten(1) for one in maps], dim=1).numpy(), grids

    @torch.no_grad()
    def pictures(
        self, coded: Iterable[tuple[Counts, Grids]], kinds: Sequence[Kind], where: str
    ) -> list[Tensor]:
        """Images [c h w] of the model's channels in [0, 1], from codes as `codes` yields them.

        Raises UserError, with `where` they are, for pixels that are not finite.
        """
        parts: list[Tensor] = []
        for codes, grids in coded:
            pieces = torch.from_numpy(codes).to(self.device).split([*map(prod, grids)], dim=1)
            maps = [one.unflatten(1, grid) for one, grid in zip(pieces, grids, strict=True)]
            made = self.coding.decode(maps).float().cpu()
            if not made.isfinite().all():
                raise UserError(f"{where}: the model gives no finite pixels: it is damaged")
            parts += made
        found, first = [], 0
        for kind in kinds:
            count, _ = self.parts_of(kind)
            own = torch.stack(parts[first : first + count])
            found.append(joined(own, (kind.height, kind.width)))
            first += count
        return found


class Coder(NamedTuple):
    """Images to payloads and back."""

    images: PictureCodes
    model: Model

    def block(self, pictures: Sequence[Picture]) -> tuple[Block, float]:
        """Pictures as one block, and its ideal length in bits."""
        starts: list[int] = []
        widths: list[int] = []
        crc, bits = 0, 0.0
        for codes, grids in self.images.codes(pictures):
            found = self.model.intervals(codes, grids)
            starts += found.starts
            widths += found.frequencies
            bits += found.bits
            crc = crc_of(codes, crc)
        return Block(len(pictures), encode(starts, widths), crc), bits

    def codes(self, block: Block, kinds: Sequence[Kind]) -> list[tuple[Counts, Grids]] | None:
        """Codes of a block's images, batch by batch; None: not those that were written."""
        decoder, crc, found = Decoder(block.payload), 0, []
        for numbers, grids in self.images.batches(kinds):
            codes = self.model.decoded(decoder, len(numbers), grids)
            crc = crc_of(codes, crc)
            found.append((codes, grids))
        return found if crc == block.crc else None


def crc_of(codes: Counts, before: int = 0) -> int:
    """Checksum of codes, continued from `before`."""
    return zlib.crc32(codes.astype("<u4").tobytes(), before)
