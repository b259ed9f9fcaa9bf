"""Images into files of codes, part by part, by one process or several."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from mae.base.divided_work import divided_work, part_sizes
from mae.base.errors import SampleError, UserError
from mae.base.files import new_folder, require_name
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.compression.codec import Codec
from mae.compression.coding import TOGETHER, Coder
from mae.compression.container import (
    CHUNK,
    Block,
    Container,
    Entry,
    Header,
    Kind,
    write_container,
)
from mae.compression.layout import Size
from mae.compression.measuring import measure_tables
from mae.compression.results import result_names
from mae.compression.sources import Group, Picture, Source
from mae.compression.tables import Tables, parse_tables
from mae.config.sections import DataConfig

TABLES = "codes.maet"
"""file of the tables in a folder of compressed images"""
BLOCK_PIXELS = 1 << 22
"""number of pixels after which a block ends"""

Row = dict[str, Any]
"""block, or bad image with its error, as JSON"""


class CompressRequest(NamedTuple):
    """Model, images and destination."""

    codec: Codec
    source: Source
    out: Path
    """new folder"""
    tables: Tables | Source | None
    """tables, or images that they are measured on; None: the model predicts its codes"""
    tiled: bool = False
    """images are coded in tiles of the model's size, although it takes others"""
    max_bad: int = 0
    """maximum number of images that are left out"""
    portion: Portion = ALONE
    log: Any = print
    finish: Callable[["Compressed"], None] = lambda found: None
    """writes reports, while all can still be done again"""


class Compressed(NamedTuple):
    """Sizes in bytes, of all images together."""

    tile: Size
    """(0, 0): images were coded whole"""
    skipped: Sequence[Row]
    """image and error"""
    images: int = 0
    pixels: int = 0
    """rows times columns"""
    payload: int = 0
    ideal: float = 0.0
    """length that the frequencies or probabilities allow"""
    files: int = 0
    """number of files"""
    total: int = 0
    """of all files"""
    tables: int = 0
    """of the file of tables"""

    @property
    def over_entropy(self) -> float:
        """Share by which the payload exceeds its ideal length."""
        return self.payload / self.ideal - 1 if self.ideal else 0.0


def compress(request: CompressRequest) -> Compressed | None:
    """Compress all images into `request.out`; None in processes that do not join.

    Divided among processes; an interrupted call resumes.  Raises UserError where `request.out` is
    not empty, too many images cannot be read, or all; PartDone in a task of a job array.
    """
    out, portion, codec, source = request.out, request.portion, request.codec, request.source
    require_new(out)
    tables = request.tables
    basis = tables.identity if isinstance(tables, Source) else tables and tables.checksum.hex()
    tile = codec.tile(request.tiled)
    groups = [group.file for group in source.groups]
    plan = [codec.sha256, tile, source.identity, groups if len(groups) == 1 else [], basis]
    digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    with divided_work(out, digest, portion, request.log) as work:
        work.require_empty(out)
        if isinstance(tables, Source):
            counted = tables
            content = work.once(
                "tables",
                lambda: measure_tables(codec, counted, tile, request.log).content,
            )
            tables = parse_tables(content, "tables")
        coder = codec.coder(tile, tables)
        sizes = part_sizes(len(source), TOGETHER)

        def each(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
            for number in numbers:
                first = number * sizes[0]
                own = range(first, first + sizes[number])
                rows = list(compressed_part(coder, codec.data, source, own))
                yield number, json.dumps(rows).encode()

        work.do("blocks", sizes, each, ProgressLine("compressing", "images", request.log))
        if portion.is_task:
            portion.leave_to_first()
        if not portion.joins:
            return None
        rows = (row for part in work.results("blocks", len(sizes)) for row in json.loads(part))
        return write_files(request, codec.header(coder), tables, rows)


def compressed_part(
    coder: Coder, data: DataConfig, source: Source, numbers: range
) -> Iterator[Row]:
    """Yield the blocks and bad images of a part, as JSON; blocks end with their file."""
    for group in source.groups[source.group_of(numbers.start) :]:
        if group.first >= numbers.stop:
            break
        used: list[tuple[int, Picture]] = []
        for number in range(max(group.first, numbers.start), min(group.stop, numbers.stop)):
            try:
                used.append((number, coder.images.read(source, number, data)))
            except SampleError as error:
                yield {"image": source.name(number), "error": str(error)}
                continue
            if sum(one.kind.pixels for _, one in used) >= BLOCK_PIXELS:
                yield _block_row(coder, used)
                used = []
        if used:
            yield _block_row(coder, used)


def _block_row(coder: Coder, used: Sequence[tuple[int, Picture]]) -> Row:
    block, bits = coder.block([picture for _, picture in used])
    return {
        "images": [number for number, _ in used],
        "kinds": [picture.kind for _, picture in used],
        "payload": base64.b64encode(block.payload).decode(),
        "crc": block.crc,
        "bits": bits,
    }


def write_files(
    request: CompressRequest, header: Header, tables: Tables | None, rows: Iterator[Row]
) -> Compressed:
    """Write all files and the tables into `request.out`.

    `rows`: of all parts, in order.  Raises UserError for too many bad images.
    """
    source = request.source
    skipped: list[Row] = []
    found = Compressed(header.tile, skipped)
    with new_folder(request.out) as folder:
        blocks = without_bad(rows, skipped)
        for group, own in groupby(blocks, lambda row: source.group_of(row["images"][0])):
            found = _with_file(found, folder, source, header, source.groups[group], own)
        refuse_bad(skipped, found.images, request.max_bad)
        if tables is not None:
            tables.write(folder / TABLES)
            found = found._replace(tables=len(tables.content))
        request.finish(found)
    return found


def without_bad(rows: Iterable[Row], skipped: list[Row]) -> Iterator[Row]:
    """Yield the blocks among `rows`; bad images are appended to `skipped`."""
    for row in rows:
        if "error" in row:
            skipped.append(row)
        else:
            yield row


def _with_file(
    before: Compressed,
    folder: Path,
    source: Source,
    header: Header,
    group: Group,
    rows: Iterator[Row],
) -> Compressed:
    """Write a file; the sizes of all so far.

    A file begins with what is known only after its last row: payloads wait in a temporary file, as
    those of all images of a data set may be more than the memory.
    """
    names: list[str] = []
    kinds: list[Kind] = []
    entries: list[Entry] = []
    bits = 0.0
    with TemporaryFile(dir=folder) as payloads:
        for row in rows:
            names += map(source.name, row["images"])
            kinds += [Kind(*kind) for kind in row["kinds"]]
            block = Block(len(row["images"]), base64.b64decode(row["payload"]), row["crc"])
            payloads.write(block.payload)
            entries.append(block.entry)
            bits += row["bits"]
        results = result_names(group.file, names, kinds) if group.has_names else []
        if len({*results}) < len(results):
            double = next(name for name in results if results.count(name) > 1)
            raise UserError(f"{group.file}: two images would become {double}: rename one")
        content = Container(header, kinds, names if group.has_names else [], entries)
        path = folder / group.file
        path.parent.mkdir(parents=True, exist_ok=True)
        payloads.seek(0)
        with path.open("wb") as file:
            write_container(file, content, iter(lambda: payloads.read(CHUNK), b""))
    return before._replace(
        images=before.images + len(kinds),
        pixels=before.pixels + sum(kind.pixels for kind in kinds),
        payload=before.payload + content.payload,
        ideal=before.ideal + bits / 8,
        files=before.files + 1,
        total=before.total + path.stat().st_size,
    )


def refuse_bad(skipped: Sequence[Row], images: int, max_bad: int) -> None:
    """Raise UserError where more than `max_bad` images were left out, or all."""
    if not skipped or (images and len(skipped) <= max_bad):
        return
    first = f"first {skipped[0]['image']}: {skipped[0]['error']}"
    if not images:
        raise UserError(f"none of {len(skipped):,} images can be compressed, {first}")
    many = "1 image" if len(skipped) == 1 else f"{len(skipped):,} images"
    raise UserError(f"{many} cannot be compressed, more than --max-bad {max_bad}, {first}")


def require_new(out: Path) -> None:
    """Raise UserError where `out` is a file, a folder that is not empty, or has no name."""
    require_name(out, "folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; nothing is overwritten: name a new folder")
