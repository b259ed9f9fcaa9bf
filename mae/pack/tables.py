"""A CSV, TSV or Parquet file that names images, and their classes, as a source of `mae pack`."""

import csv
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mae.base.errors import UserError
from mae.decoding.pixels import EXTENSIONS
from mae.pack.sources import (
    SHOWN,
    FileReader,
    Listing,
    Source,
    examine_files,
    extension_of,
    shown,
    stamp,
)

SUFFIXES = (".csv", ".tsv", ".parquet")
LABEL_COLUMN = "label"
LARGEST_LABEL = 2**31 - 1


def find_in_table(
    table: Path,
    path_column: str = "path",
    label_column: str | None = None,
    labels: bool | None = None,
) -> Listing:
    """The images that a table names, in its order; paths are relative to its folder.

    Labels that are all whole numbers are class numbers; others are names, numbered by order.
    Raises UserError, one line per fault and ten at most: unknown columns, empty cells, files that
    are missing or named twice, labels out of range.
    """
    columns, rows = _read(table)
    path_at = _column(table, columns, path_column, "--path-column")
    label_at = None
    if labels is not False and (labels or label_column or LABEL_COLUMN in columns):
        label_at = _column(table, columns, label_column or LABEL_COLUMN, "--label-column")

    paths = [row[path_at] for row in rows]
    texts = [row[label_at] for row in rows] if label_at is not None else []
    numbers, classes = _class_numbers(texts)
    faults = list(_faults(table, paths, texts, numbers))
    if faults:
        more = [f"{table}: and {len(faults) - SHOWN} more faults"] if len(faults) > SHOWN else []
        raise UserError("\n".join(faults[:SHOWN] + more))
    if not paths:
        raise UserError(f"{table}: no images: the table has no rows")

    files = examine_files(FileReader(str(table.parent)), paths)
    if not files.paths:
        raise UserError(f"{table}: no images: expected .{', .'.join(EXTENSIONS)}")
    label_of = dict(zip(paths, numbers, strict=True)) if numbers else {}
    sources = [Source(path, extension_of(path), label_of.get(path)) for path in files.paths]
    found = [-1 if source.label is None else source.label for source in sources]
    return Listing(
        name=str(table),
        sources=sources,
        reader=FileReader(str(table.parent)),
        sizes=files.sizes,
        stamp=stamp([files.stamp, *classes], np.array(found, np.int64)),
        splits=(("train", len(sources)),),
        classes=classes,
        skipped=files.skipped,
    )


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and all rows as text; a missing value is an empty text."""
    try:
        if table.suffix.lower() == ".parquet":
            return _read_parquet(table)
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            columns = next(lines, None)
            if columns is None:
                raise UserError(f"{table}: is empty: a first line of column names is expected")
            rows = [row + [""] * (len(columns) - len(row)) for row in lines if row]
            return columns, rows
    except csv.Error as error:
        raise UserError(f"{table}: does not read as a table: {error}") from None
    except OSError as error:
        raise UserError(f"{table}: cannot be read: {error.strerror or error}") from None


def _read_parquet(table: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{table}: needs pyarrow: pip install 'mae[parquet]'") from None
    try:
        with parquet.ParquetFile(table) as file:
            # Flat columns alone: images inside of a table may be larger than memory.
            fields = [field for field in file.schema_arrow if not field.type.num_fields]
            names = [field.name for field in fields if "binary" not in str(field.type)]
            content = file.read(columns=names)
    except ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{table}: does not read as Parquet: {reason}") from None
    columns = [content.column(name).to_pylist() for name in names]
    return names, [[_text(value) for value in row] for row in zip(*columns, strict=True)]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _column(table: Path, columns: Sequence[str], wanted: str, option: str) -> int:
    if wanted in columns:
        return columns.index(wanted)
    near = difflib.get_close_matches(wanted, columns, 1) or [
        column for column in columns if column.lower() == wanted.lower()
    ]
    hint = f"did you mean {near[0]}? " if near else ""
    names = ", ".join(map(shown, columns[:SHOWN])) + (", …" if len(columns) > SHOWN else "")
    raise UserError(f"{table}: no column {wanted}: {hint}{option} names one of {names}")


def _class_numbers(texts: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """A number for each label, and the names by number where labels are names."""
    try:
        return [_whole(text) for text in texts if text], ()
    except ValueError:
        names = tuple(sorted(set(texts)))
        number = {name: i for i, name in enumerate(names)}
        return [number[text] for text in texts], names


def _whole(text: str) -> int:
    """Whole numbers, also as tables with gaps write them (`3.0`)."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(text) from None
        return int(number)


def _faults(
    table: Path, paths: Sequence[str], texts: Sequence[str], numbers: Sequence[int]
) -> Iterator[str]:
    """What is wrong with each row; rows count as in a spreadsheet, the header being row 1."""
    first_row: dict[str, int] = {}
    whole = len(numbers) == len(texts)  # else some label is empty, which is a fault of its own
    for i, path in enumerate(paths):
        where = f"{table}: row {i + 2}"
        if not path:
            yield f"{where}: no path"
        elif path in first_row:
            yield f"{where}: {shown(path)}: is in row {first_row[path]} already"
        elif not Path(table.parent, path).exists():
            yield f"{where}: {shown(path)}: no such file in {table.parent}"
        first_row.setdefault(path, i + 2)
        if texts and not texts[i]:
            yield f"{where}: no label (--no-labels packs without classes)"
        elif whole and numbers and not 0 <= numbers[i] <= LARGEST_LABEL:
            yield f"{where}: label {numbers[i]}: class numbers start at 0"
