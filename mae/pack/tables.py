"""Tables of image paths and labels (CSV, TSV, Parquet) as a source of `mae pack`."""

import csv
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mae.base.errors import UserError
from mae.data.scan import NO_LABEL
from mae.decoding.pixels import EXTENSIONS
from mae.pack.listing import (
    MAX_LISTED,
    FileReader,
    Listing,
    Source,
    extension_of,
    fingerprint,
    printable,
    stat_files,
)

SUFFIXES = (".csv", ".tsv", ".parquet")
LABEL_COLUMN = "label"
LARGEST_LABEL = 2**31 - 1


def list_table(
    table: Path,
    path_column: str = "path",
    label_column: str | None = None,
    labels: bool | None = None,
    *,
    named: bool = False,
) -> Listing:
    """List the images of a table, in its order; paths are relative to its folder.

    Labels that are all whole numbers are class numbers, unless `named`; other labels are class
    names, numbered in sorted order.
    Raises UserError, one line per fault and at most ten: unknown columns, empty cells, missing
    files, duplicate paths, labels out of range.
    """
    columns, rows = _read(table)
    path_at = _column(table, columns, path_column, "--path-column")
    label_at = None
    if labels is not False and (labels or label_column or LABEL_COLUMN in columns):
        label_at = _column(table, columns, label_column or LABEL_COLUMN, "--label-column")

    paths = [row[path_at] for row in rows]
    texts = [row[label_at] for row in rows] if label_at is not None else []
    numbers, classes = _class_numbers(texts, named)
    faults = list(_faults(table, paths, texts, numbers))
    if faults:
        lines = faults[:MAX_LISTED]
        if len(faults) > MAX_LISTED:
            lines.append(f"{table}: and {len(faults) - MAX_LISTED} more faults")
        raise UserError("\n".join(lines))
    if not paths:
        raise UserError(f"{table}: no images: the table has no rows")

    files = stat_files(FileReader(str(table.parent)), paths)
    if not files.paths:
        raise UserError(f"{table}: no images: expected .{', .'.join(EXTENSIONS)}")
    label_of = dict(zip(paths, numbers, strict=True)) if numbers else {}
    sources = [Source(path, extension_of(path), label_of.get(path)) for path in files.paths]
    labels_found = [NO_LABEL if source.label is None else source.label for source in sources]
    return Listing(
        name=str(table),
        sources=sources,
        reader=FileReader(str(table.parent)),
        sizes=files.sizes,
        fingerprint=fingerprint([files.fingerprint, *classes], np.array(labels_found, np.int64)),
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
        raise UserError(f"{table}: cannot be parsed as a table: {error}") from None
    except OSError as error:
        raise UserError(f"{table}: cannot be read: {error.strerror or error}") from None


def _read_parquet(table: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{table}: needs pyarrow: pip install 'maekit[parquet]'") from None
    try:
        with parquet.ParquetFile(table) as file:
            # Flat columns only: images embedded in a table may be larger than memory.
            fields = [field for field in file.schema_arrow if not field.type.num_fields]
            names = [field.name for field in fields if "binary" not in str(field.type)]
            content = file.read(columns=names)
    except ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{table}: cannot be parsed as Parquet: {reason}") from None
    columns = [content.column(name).to_pylist() for name in names]
    return names, [[_text(value) for value in row] for row in zip(*columns, strict=True)]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _column(table: Path, columns: Sequence[str], name: str, option: str) -> int:
    """Number of the column called `name`; UserError, naming `option`, where there is none."""
    if name in columns:
        return columns.index(name)
    near = difflib.get_close_matches(name, columns, 1) or [
        column for column in columns if column.lower() == name.lower()
    ]
    hint = f"did you mean {near[0]}? " if near else ""
    names = ", ".join(map(printable, columns[:MAX_LISTED]))
    names += ", …" if len(columns) > MAX_LISTED else ""
    raise UserError(f"{table}: no column {name}: {hint}{option} names one of {names}")


def _class_numbers(texts: Sequence[str], named: bool) -> tuple[list[int], tuple[str, ...]]:
    """Class number of each label, and class names by number where labels are names."""
    try:
        if named:
            raise ValueError
        return [_whole_number(text) for text in texts if text], ()
    except ValueError:
        names = tuple(sorted(set(texts)))
        number = {name: i for i, name in enumerate(names)}
        return [number[text] for text in texts], names


def _whole_number(text: str) -> int:
    """Parse a whole number, also as tables with missing values write it (`3.0`)."""
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
    """Lines on invalid rows, numbered as in a spreadsheet: the header is row 1."""
    first_row: dict[str, int] = {}
    complete = len(numbers) == len(texts)  # otherwise an empty label is reported by itself
    for i, path in enumerate(paths):
        where = f"{table}: row {i + 2}"
        if not path:
            yield f"{where}: no path"
        elif path in first_row:
            yield f"{where}: {printable(path)}: duplicate of row {first_row[path]}"
        elif not Path(table.parent, path).exists():
            yield f"{where}: {printable(path)}: no such file in {table.parent}"
        first_row.setdefault(path, i + 2)
        if texts and not texts[i]:
            yield f"{where}: no label (--no-labels packs without classes)"
        elif complete and numbers and not 0 <= numbers[i] <= LARGEST_LABEL:
            yield f"{where}: label {numbers[i]}: class numbers start at 0"
