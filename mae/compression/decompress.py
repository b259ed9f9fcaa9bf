"""Files of codes into images, part by part, by one process or several."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mae.base.divided_work import divided_work, part_sizes
from mae.base.errors import RunFailed, SampleError, UserError
from mae.base.files import discard, new_file, publish
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.compression.code_models import PredictedModel, TableModel, this_build
from mae.compression.codec import Codec
from mae.compression.coding import Coder
from mae.compression.compress import require_new
from mae.compression.container import ENDING, NO_TABLES, Kind, Place, Stored, read_container
from mae.compression.layout import WHOLE
from mae.compression.results import encoded, result_names, stored_pixels
from mae.compression.tables import ENDING as TABLES_ENDING
from mae.compression.tables import Tables, read_tables

FILES = "files"
"""folder of the results until all are there"""


class CodeFile(NamedTuple):
    """File of compressed images, and where its images go."""

    stored: Stored
    names: Sequence[str]
    """of the results, below the new folder"""

    @property
    def path(self) -> Path:
        """Its own."""
        return self.stored.path


class DecompressRequest(NamedTuple):
    """Model, files and destination."""

    codec: Codec
    model: str
    """name of the model, for messages"""
    files: Sequence[CodeFile]
    tables: Sequence[Tables]
    """all that were found"""
    out: Path
    """new folder"""
    portion: Portion = ALONE
    log: Any = print


def open_files(sources: Sequence[str]) -> list[CodeFile]:
    """Check files, and those in folders, which are searched recursively; no payload is kept.

    Raises UserError where a source does not exist or holds none, a file is damaged, or two images
    have one name.
    """
    found: list[CodeFile] = []
    for source in map(Path, sources):
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")
        paths = _below(source) if source.is_dir() else [source]
        if not paths:
            raise UserError(f"{source}: no compressed images in this folder (*{ENDING})")
        for path in paths:
            name = path.relative_to(source).as_posix() if source.is_dir() else path.name
            stored = read_container(path)
            own, kinds = stored.content.names, stored.content.kinds
            names = result_names(name.removesuffix(ENDING), own, kinds)
            found.append(CodeFile(stored, names))
    taken: dict[str, Path] = {}
    for file in found:
        for name in file.names:
            if name in taken:
                raise UserError(
                    f"{taken[name]} and {file.path}: images of both would be named {name}"
                )
            taken[name] = file.path
    return found


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in sorted(names)
            if name.endswith(ENDING) and not name.startswith(".")
        ]
    return found


def open_tables(paths: Sequence[Path], files: Sequence[CodeFile]) -> list[Tables]:
    """Tables of `paths`, and those beside the files or in a folder above, where needed.

    Raises UserError for a path that holds none, and where only damaged ones are there.
    """
    found = {tables.checksum: tables for tables in map(read_tables, paths)}
    for file in files:
        needed = file.stored.content.header.tables
        if needed == NO_TABLES or needed in found:
            continue
        errors: list[UserError] = []
        for folder in file.path.absolute().parents:
            for beside in sorted(folder.glob(f"*{TABLES_ENDING}")):
                try:
                    tables = read_tables(beside)
                    found.setdefault(tables.checksum, tables)
                except UserError as error:
                    errors.append(error)
            if needed in found:
                break
        if errors and needed not in found:
            raise errors[0]
    return list(found.values())


def decompress(request: DecompressRequest) -> int | None:
    """Write all images into `request.out`, their number; None in processes that do not join.

    Divided among processes; an interrupted call resumes.  Raises UserError where `request.out` is
    not empty, a file is of another model, its tables are not there, or its codes are not those that
    were written; PartDone in a task of a job array.
    """
    out, portion, files = request.out, request.portion, request.files
    require_new(out)
    models = {tables.checksum: TableModel(tables) for tables in request.tables}
    coders = [coder_for(request, models, one) for one in files]
    blocks = [(number, place) for number, one in enumerate(files) for place in one.stored.places()]
    many = part_sizes(len(blocks), 1)
    ends = np.cumsum(many).tolist()
    parts = [blocks[end - size : end] for end, size in zip(ends, many, strict=True)]
    sizes = [sum(place.entry.images for _, place in part) for part in parts]
    identity = [[str(one.path), one.stored.sha256] for one in files]
    plan = json.dumps([request.codec.sha256, identity])
    with divided_work(out, plan, portion, request.log) as work:
        work.require_empty(out)
        folder = work.folder / FILES

        def each(numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
            for number in numbers:
                for which, place in parts[number]:
                    write_block(files[which], coders[which], place, folder)
                yield number, b"done"

        work.do("images", sizes, each, ProgressLine("decompressing", "images", request.log))
        if portion.is_task:
            portion.leave_to_first()
        if not portion.joins:
            return None
        for number in range(len(parts)):
            missing = [
                name
                for which, place in parts[number]
                for name in files[which].names[place.numbers.start : place.numbers.stop]
                if not (folder / name).exists()
            ]
            if missing:
                work.forget("images", number)
                raise RunFailed(
                    f"{folder / missing[0]}: missing: run the same command again to write it"
                )
        for left in folder.rglob("*.part"):  # of killed processes
            discard(left)
        publish(folder, out)
    return sum(sizes)


def coder_for(
    request: DecompressRequest, models: Mapping[bytes, TableModel], file: CodeFile
) -> Coder:
    """Coder of a file.  Raises UserError where it needs another model, or absent tables.

    `models`: of the tables by their checksum, the same for all files: each lists its frequencies.
    """
    codec, header, path = request.codec, file.stored.content.header, file.path
    own = codec.sha256[: 2 * len(header.model)]
    if header.model.hex() != own:
        raise UserError(
            f"{path}: was made with another model (checksum {header.model.hex()}, {request.model} "
            f"has {own})"
        )
    data = codec.data
    if (header.channels, header.bits) != (data.in_chans, data.bits):
        raise UserError(
            f"{path}: is of {header.channels} channels and {header.bits} bits, {request.model} of "
            f"{data.in_chans} and {data.bits}"
        )
    if header.tile not in (WHOLE, codec.img_size) or (
        header.tile == WHOLE and not codec.coding.any_size
    ):
        raise UserError(f"{path}: its tiles are not of the size of {request.model}")
    images = codec.images(header.tile)
    try:
        for kind in {*file.stored.content.kinds}:
            images.check_size(kind)
    except SampleError as error:
        raise UserError(f"{path}: made by something else: {error}") from None
    if header.tables == NO_TABLES:
        if codec.coding.predict is None:
            raise UserError(f"{path}: is damaged, or made by something else")
        return Coder(images, PredictedModel(codec.coding))
    if header.tables in models:
        return Coder(images, models[header.tables])
    raise UserError(
        f"{path}: its tables (checksum {header.tables.hex()}) are not beside it, nor in a folder "
        f"above: name the file of tables, *{TABLES_ENDING}, with --tables"
    )


def write_block(file: CodeFile, coder: Coder, place: Place, folder: Path) -> None:
    """Write the images of a block.

    Raises UserError where its codes are not those written, or the file has changed.
    """
    own = slice(place.numbers.start, place.numbers.stop)
    kinds, names = file.stored.content.kinds[own], file.names[own]
    for name, kind, picture in zip(names, kinds, decoded(file, coder, place, kinds), strict=True):
        with new_file(folder / name) as part:
            part.write_bytes(encoded(stored_pixels(picture, kind), name))


def decoded(file: CodeFile, coder: Coder, place: Place, kinds: Sequence[Kind]) -> list[Tensor]:
    """Images [c h w] in [0, 1] of a block.  Raises UserError as `write_block`."""
    codes = coder.codes(file.stored.block(place), kinds)
    if codes is None:
        build = file.stored.content.header.build
        reason = "its tables or its model are others"
        if build:
            reason = f"it was made by {build}; this is {this_build()}"
            if build == this_build():
                reason = f"although it was made by the same build ({build})"
        raise UserError(f"{file.path}: does not decode to the codes that were written: {reason}")
    return coder.images.pictures(codes, kinds, str(file.path))
