"""Denoising in parts, divided among processes, into one folder of results with its reports."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mae.base.divided_work import DividedWork, divided_work
from mae.base.errors import RunFailed, UserError
from mae.base.files import discard, publish, require_new_folder
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.config.sections import DataConfig
from mae.data.transform import center_crop
from mae.decoding.decode import decode_native

FORMAT = "rows 2"
"""of the parts: another one where rows change"""
FILES = "files"
"""folder of the results until all are there"""


class DenoiseRequest(NamedTuple):
    """Denoiser and destination, the same for files and shards."""

    denoise: Callable[[Tensor], Tensor]
    """integer images [b c h w] on `device` → [0, 1]"""
    model: str
    """identifies the denoiser: weights and settings"""
    data: DataConfig
    """channels and bits that the denoiser was trained on"""
    lossless: bool
    """lossy files are refused"""
    out: Path
    """new folder"""
    device: torch.device | str = "cpu"
    portion: Portion = ALONE


class Example(NamedTuple):
    """An image for the picture: the content of its file before and after."""

    name: str
    noisy: bytes
    denoised: bytes
    extensions: tuple[str, str]


Row = dict[str, Any]
"""image, name of its result (for shards: in its shard), and its measures, or its error"""

Finish = Callable[[list[Row], Iterator[Example]], None]
"""writes the reports, while all can still be done again"""


def denoise_parts(
    do: Callable[[int, Path], Iterator[Row]],
    sizes: Sequence[int],
    listed: Sequence[object],
    request: DenoiseRequest,
    finish: Finish,
    example: Callable[[Row, Path], Example],
) -> list[Row]:
    """Rows of all parts; `do` denoises one into a folder, which becomes `request.out` at the end.

    `sizes`: images of each part; `listed`: what identifies the images; `finish` gets all rows and
    an `example` of each denoised image, before `request.out` appears.  Divided among processes;
    only the first returns rows, the others none.  An interrupted call resumes.  Raises UserError
    where `request.out` is not empty or no image can be denoised, PartDone in a task of a job array.
    """
    out, portion = request.out, request.portion
    require_new_folder(out)
    plan = hashlib.sha256(json.dumps([FORMAT, request.model, listed]).encode()).hexdigest()
    with divided_work(out, plan, portion, portion.log) as work:
        work.require_empty(out)
        folder = work.folder / FILES

        def each(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
            for number in numbers:
                yield number, json.dumps(list(do(number, folder))).encode()

        work.do("rows", sizes, each, ProgressLine("denoising", "images", portion.log))
        if portion.is_task:
            portion.leave_to_first()
        rows: list[Row] = []
        done: list[Row] = []
        if portion.joins:
            rows = [row for part in work.results("rows", len(sizes)) for row in json.loads(part)]
            done = [row for row in rows if "error" not in row]
            _require_files(work, folder, sizes, done)
            if done:
                finish(rows, (example(row, folder) for row in done))
                for left in folder.rglob("*.part"):  # of killed processes
                    discard(left)
                publish(folder, out)
    if portion.joins and not done:
        first = rows[0]
        raise UserError(
            f"none of {len(rows):,} images can be denoised, first {first['image']}: "
            f"{first['error']}"
        )
    return rows


def _require_files(
    work: DividedWork, folder: Path, sizes: Sequence[int], rows: Sequence[Row]
) -> None:
    """Raise RunFailed, once their parts are deleted, where files of results are missing."""
    names = {row.get("shard", row["written"]) for row in rows}
    if missing := [name for name in names if not (folder / name).exists()]:
        for number in range(len(sizes)):
            work.forget("rows", number)
        raise RunFailed(
            f"{folder / min(missing)}: missing, as {len(missing):,} in all, so the parts were "
            "deleted: run the same command again"
        )


def previews(
    examples: Iterable[Example], count: int, side: int
) -> tuple[list[str], Tensor, Tensor]:
    """Names, and the centres of at most `side` pixels of the first `count` images of one kind.

    Images before and after, integers [b c h w].
    """
    names, pairs = [], []
    for one in examples:
        pair = [
            decode_native(data, extension)
            for data, extension in zip((one.noisy, one.denoised), one.extensions, strict=True)
        ]
        channels = min(3 if len(image) >= 3 else 1 for image in pair)
        pair = [center_crop(image[:channels], _at_most(image, side)).clone() for image in pair]
        if not pairs or all(
            image.dtype == known.dtype and len(image) == len(known)
            for image, known in zip(pair, pairs[0], strict=True)
        ):
            names.append(one.name)
            pairs.append(pair)
        if len(names) == count:
            break
    height, width = (min(pair[0].shape[axis] for pair in pairs) for axis in (1, 2))
    before, after = (
        torch.stack([center_crop(pair[which], (height, width)) for pair in pairs])
        for which in (0, 1)
    )
    return names, before, after


def _at_most(image: Tensor, side: int) -> tuple[int, int]:
    height, width = image.shape[1:]
    return min(height, side), min(width, side)
