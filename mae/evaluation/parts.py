"""Parts of a data set that processes evaluate: whole batches, whose results are columns."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from mae.base.divided_work import DividedWork, part_sizes
from mae.base.progress import Progress

T = TypeVar("T")
REASONS = "reasons"
"""name of the column with the bad images"""


class PartResult(NamedTuple):
    """Result of a part, as it is stored."""

    columns: dict[str, npt.NDArray[Any]]
    reasons: list[str]
    """shard, key and defect of each bad image"""


def do_batches(
    work: DividedWork,
    name: str,
    total: int,
    batch_size: int,
    compute: Callable[[Sequence[range]], Iterator[T]],
    pack: Callable[[list[T]], bytes],
    show: Progress,
    *,
    together: int = 1,
    needs_all: bool = False,
) -> int:
    """Do this process's parts `name` of `total` samples; the number of all parts.

    `compute`: (ranges of samples) → result of each, in order; `pack`: results of a part → bytes.
    The batches do not depend on the processes.  `together`: minimum number of batches of a part;
    `needs_all`: as in `DividedWork.do`.
    """
    sizes = part_sizes(total, batch_size * together)

    def do_parts(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for number, results in results_of_parts(numbers, sizes, batch_size, compute):
            yield number, pack(list(results))

    work.do(name, sizes, do_parts, show, needs_all=needs_all)
    return len(sizes)


def results_of_parts(
    numbers: Sequence[int],
    sizes: Sequence[int],
    batch_size: int,
    compute: Callable[[Sequence[range]], Iterator[T]],
) -> Iterator[tuple[int, Iterator[T]]]:
    """Numbers of parts, each with the results of its batches, to be taken before the next part.

    `sizes`: samples of every part; `compute`: as in `do_batches`, called once for all these parts,
    so that its data workers start once.
    """
    parts = [range(number * sizes[0], number * sizes[0] + sizes[number]) for number in numbers]
    found = compute([batch for part in parts for batch in split(part, batch_size)])
    for number, part in zip(numbers, parts, strict=True):
        yield number, islice(found, len(split(part, batch_size)))


def split(samples: range, size: int) -> list[range]:
    """Ranges of `size` samples, the last one possibly smaller."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def pack_columns(columns: Mapping[str, npt.NDArray[Any]], reasons: Sequence[str]) -> bytes:
    """Result of a part, as safetensors."""
    text = np.frombuffer(json.dumps(list(reasons)).encode(), np.uint8)
    return save({**columns, REASONS: text})


def unpack_columns(part: bytes) -> PartResult:
    """Result that `pack_columns` packed."""
    columns = load(part)
    return PartResult(columns, json.loads(columns.pop(REASONS).tobytes()))
