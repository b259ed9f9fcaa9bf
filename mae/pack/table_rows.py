"""Columns and rows of a table file: CSV and TSV as people's programs write them, Parquet."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import UserError
from mae.base.files import require_regular

SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Table(NamedTuple):
    """Content of a table as text."""

    columns: list[str]
    """names, without the blanks around them"""
    rows: list[list[str]]
    """cells, as many as columns; a missing value is an empty text"""
    numbers: list[int]
    """number of each row as in a spreadsheet: the header is row 1"""


def read_table(file: Path, column: str) -> Table:
    """Read a table; the delimiter is the one that separates `column` from the others.

    Raises UserError for a file that is no table, a column named twice, a row with more cells than
    columns.
    """
    require_regular(file)
    try:
        if file.suffix.lower() == ".parquet":
            return _read_parquet(file)
        records = _records(file, _decoded(file), column)
    except csv.Error as error:
        raise UserError(f"{file}: cannot be parsed as a table: {error}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not records:
        raise UserError(f"{file}: is empty: a first line of column names is expected")
    columns = [name.strip() for name in records[0]]
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError(f"{file}: two columns are called {name}")
    rows, numbers = [], []
    for number, cells in enumerate(records[1:], 2):
        if any(cells[len(columns) :]):
            have = f"row {number} has {len(cells)} cells for {len(columns)} columns"
            raise UserError(f"{file}: {have}: put quotes around names with a delimiter")
        if cells:
            rows.append(cells[: len(columns)] + [""] * (len(columns) - len(cells)))
            numbers.append(number)
    return Table(columns, rows, numbers)


def _decoded(file: Path) -> str:
    """Text of a file in UTF-8 or with a byte order mark; bytes of other encodings are kept."""
    data = file.read_bytes()
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            kept = "surrogateescape" if encoding == "utf-8" else "replace"
            return data[len(mark) :].decode(encoding, kept)
    if b"\0" in data:
        raise UserError(f"{file}: is not text in UTF-8: save it as CSV in UTF-8")
    return data.decode("utf-8", "surrogateescape")


def _records(file: Path, text: str, column: str) -> list[list[str]]:
    """Records of a text, by the delimiter whose header has `column`, else by the usual one."""
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    first = text.partition("\n")[0]
    for delimiter in (usual, *DELIMITERS):
        header = next(csv.reader([first], delimiter=delimiter), [])
        if column.casefold() in (name.strip().casefold() for name in header):
            break
    else:
        delimiter = max((usual, *DELIMITERS), key=first.count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def _read_parquet(file: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{file}: needs pyarrow: pip install 'maekit[parquet]'") from None
    try:
        with parquet.ParquetFile(file) as table:
            # Flat columns only: images embedded in a table may be larger than memory.
            fields = [field for field in table.schema_arrow if not field.type.num_fields]
            names = [field.name for field in fields if "binary" not in str(field.type)]
            content = table.read(columns=names)
    except ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be parsed as Parquet: {reason}") from None
    columns = [content.column(name).to_pylist() for name in names]
    rows = [[_text(value) for value in row] for row in zip(*columns, strict=True)]
    return Table(names, rows, list(range(2, len(rows) + 2)))


def _text(value: object) -> str:
    return "" if value is None else str(value)
