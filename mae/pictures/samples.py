"""Samples of a generative model: pictures from seeds, as a sheet and as files."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.objectives.base import Objective
from mae.pictures.drawing import MOST_VALUES, stretch, to_pil
from mae.pictures.sheet import Cell, Sheet

BATCH = 16
"""samples drawn at a time, always as many: so that sample n is the same for any count"""

COLUMNS = 8
"""samples in a row of the sheet"""

SHOWN = 64
"""maximum number of samples on the sheet"""

PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""colour type of a PNG file by its number of channels"""


class SampleRequest(NamedTuple):
    """Number and seed of the samples, title of the sheet."""

    count: int
    seed: int
    title: str


@torch.no_grad()
def draw_samples(
    objective: Objective, count: int, seed: int, device: str, **settings: float
) -> Iterator[Tensor]:
    """Yield `count` samples in [0, 1] in batches [b c h w], on the CPU.

    Sample n depends on `seed`, n and the `settings` of the objective's `sample` alone.  Raises
    UserError where a sample is not finite.
    """
    sample: Any = objective.sample
    for start in range(0, count, BATCH):
        seeds = as_tensor(fold(seed, Stream.PANEL, start + np.arange(BATCH))).to(device)
        samples = sample(seeds, **settings).float().cpu()[: count - start]
        if not samples.isfinite().all():
            raise UserError(f"samples from seed {seed} are not finite: the weights are damaged")
        yield samples.clamp(0, 1)


def sample_sheet(samples: Tensor, bits: int, request: SampleRequest) -> Sheet:
    """Sheet of numbered samples; those of 16 `bits` are stretched alike for display."""
    shown, channels = samples, samples.shape[1]
    notes = [f"Drawn from seed {request.seed}: the same seed draws the same pictures."]
    if request.count > len(samples):
        notes.append(f"The first {len(samples)} of {request.count:,}.")
    if bits > 8:
        values = samples.flatten()
        shown = stretch(samples, values[:: -(-len(values) // MOST_VALUES)][None])
        notes.append("Black and white are the 1st and 99th percentile of the pixels.")
    if channels not in (1, 3):
        part = "The first three channels are" if channels > 3 else "The first channel is"
        notes.append(f"{part} shown, of {channels}.")
    cells = [Cell(to_pil(one), str(number)) for number, one in enumerate(shown)]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    return Sheet(request.title, [""] * len(rows[0]), rows, notes)


def check_channels(channels: int) -> None:
    """Raise UserError where PNG files cannot hold images of so many channels."""
    if channels not in PNG_COLOURS:
        raise UserError(
            f"--files: PNG files hold 1 to 4 channels, and the samples have {channels}: leave it "
            "out"
        )


def as_levels(images: Tensor, bits: int) -> Tensor:
    """Images in [0, 1] → integers of 8 or 16 `bits`, rounded."""
    levels = (images.double() * (2**bits - 1)).round()
    # By int32: torch converts floats to uint16 on few devices.
    return levels.to(torch.uint8) if bits == 8 else levels.to(torch.int32).to(torch.uint16)


def write_samples(samples: Tensor, bits: int, folder: Path, first: int) -> list[str]:
    """Write samples, numbered from `first`, as PNG files of 8 or 16 `bits`; returns their names."""
    names = [f"sample-{first + number:06d}.png" for number in range(len(samples))]
    write_pngs(samples, bits, folder, names)
    return names


def write_pngs(images: Tensor, bits: int, folder: Path, names: Sequence[str]) -> None:
    """Write images [b c h w] in [0, 1] as PNG files of 8 or 16 `bits`."""
    for name, levels in zip(names, as_levels(images, bits), strict=True):
        (folder / name).write_bytes(png_bytes(levels.movedim(0, -1).numpy()))


def png_bytes(pixels: npt.NDArray[Any]) -> bytes:
    """PNG file of integers [h w c] of 8 or 16 bits; Pillow writes no colours of 16 bits."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, PNG_COLOURS[channels], 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    unfiltered = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
