"""Parquet file of embedded images: its columns checked and read, its large ones row by row."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.files import require_regular
from mae.base.printable import printable

MOST_ROWS = 200_000
"""maximum number of images of a page; up to 50,000 it opens in seconds"""
MOST_BYTES = 2**32
"""maximum size of the vectors in memory"""
MOST_FLAT = 2**28
"""maximum size of a column of numbers or texts in the file; longer texts are no classes"""
BATCH = 128
"""number of rows of a large column read at a time: images may be of any size"""
BUFFER = 2**20
"""bytes of a column read at a time, whatever the size of its row groups"""
MADE_BY = "mae embed SHARDS --with RUN --out X.parquet makes them"
LISTED = 8
"""maximum number of columns that a message names"""

Floats = npt.NDArray[np.float32]


class Table(NamedTuple):
    """Parquet file: rows, schema and columns of one value per row; the rest is read on demand."""

    file: Path
    rows: int
    flat: Mapping[str, Any]
    """pyarrow arrays of the columns of numbers, texts and truth values, by name"""
    nested: frozenset[str]
    """names of the other columns"""
    metadata: Mapping[str, str]
    """texts that the writer of the file kept beside the schema"""
    places: Floats
    """x and y [n 2], finite"""
    keys: list[str]
    """name of each image, on one line"""


def read_table(file: Path) -> Table:
    """Check and read a file.

    Raises UserError where pyarrow is missing, the file is no Parquet, has no rows or too many, or
    its columns x and y are missing or hold no finite numbers.
    """
    require_regular(file)
    with _parquet_file(file) as parquet:
        rows = parquet.metadata.num_rows
        if not rows:
            raise UserError(f"{file}: has no rows: there is nothing to show")
        if rows > MOST_ROWS:
            raise UserError(
                f"{file}: has {rows:,} rows; a page shows {MOST_ROWS:,} at most: embed fewer shards"
            )
        fields = {field.name: field for field in parquet.schema_arrow}
        if len(fields) < len(parquet.schema_arrow):
            twice = [name for name, n in Counter(parquet.schema_arrow.names).items() if n > 1]
            raise UserError(f"{file}: two columns are called {printable(twice[0])}")
        for name in ("x", "y"):
            if name not in fields:
                raise UserError(f"{file}: no column {name} ({_listed(fields)}): {MADE_BY}")
        sizes = _sizes(parquet.metadata)
        names = [
            name
            for name, field in fields.items()
            if _is_flat(field.type) and sizes[name] <= MOST_FLAT
        ]
        flat = _flat_columns(file, parquet, names)
        metadata = _texts(parquet.schema_arrow.metadata or {})
    places = np.stack([_coordinates(file, name, flat.get(name)) for name in ("x", "y")], axis=1)
    nested = frozenset(fields.keys() - flat.keys())
    return Table(file, rows, flat, nested, metadata, places, _keys(flat.get("key"), rows))


def _parquet_file(file: Path) -> Any:
    """Open a file; its errors become UserError."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{file}: needs pyarrow: pip install 'maekit[parquet]'") from None
    try:
        return parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read as Parquet: {reason}") from None


def _sizes(metadata: Any) -> Counter[str]:
    """Bytes of each column before its compression."""
    found: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            found[column.path_in_schema] += column.total_uncompressed_size
    return found


def _flat_columns(file: Path, parquet: Any, names: Sequence[str]) -> dict[str, Any]:
    from pyarrow import ArrowException

    try:
        content = parquet.read(columns=names, use_threads=False)
    except (ArrowException, OSError) as error:
        raise UserError(f"{file}: is damaged: {str(error).splitlines()[0]}") from None
    return {name: content.column(name).combine_chunks() for name in names}


def _listed(names: Mapping[str, Any]) -> str:
    shown = ", ".join(printable(name) for name in list(names)[:LISTED])
    return f"its columns are {shown}" + ", …" * (len(names) > LISTED)


def _is_flat(type_: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    tests = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(type_) for test in (*tests, *texts))


def _texts(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in metadata.items()
    }


def as_floats(column: Any) -> npt.NDArray[np.float64]:
    """Numbers of a pyarrow column; missing ones are NaN.  ValueError where it holds others."""
    import pyarrow

    try:
        found = column.cast(pyarrow.float64(), safe=False)
        return found.to_numpy(zero_copy_only=False).astype(np.float64)
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from None


def as_texts(column: Any) -> list[str | None]:
    """Values of a pyarrow column as texts."""
    return [None if value is None else str(value) for value in column.to_pylist()]


def _coordinates(file: Path, name: str, column: Any) -> Floats:
    try:
        if column is None or "string" in str(column.type):
            raise ValueError("other values")
        with np.errstate(over="ignore"):
            values = as_floats(column).astype(np.float32)
    except ValueError:
        raise UserError(f"{file}: column {name} holds no numbers: {MADE_BY}") from None
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"{file}: {name} of {len(bad):,} of {len(values):,} rows is missing or no finite "
            f"number, first in row {bad[0] + 1:,}: leave these rows out"
        )
    return values


def _keys(column: Any, rows: int) -> list[str]:
    """Keys as they are, but for line ends and control characters; else numbers of the rows."""
    texts = [None] * rows if column is None else as_texts(column)
    return [
        f"row {number + 1}" if text is None else printable(text)
        for number, text in enumerate(texts)
    ]


def stream(table: Table, name: str) -> Iterator[Any]:
    """Yield a nested column as pyarrow arrays of at most BATCH rows; memory is that of one."""
    from pyarrow import ArrowException

    with _parquet_file(table.file) as parquet:
        try:
            for batch in parquet.iter_batches(BATCH, columns=[name], use_threads=False):
                yield batch.column(0)
        except (ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{table.file}: column {name} is damaged: {reason}") from None


def read_vectors(table: Table) -> Floats | None:
    """Column `vector` [n d]; None where there is none, or not one of equally many finite numbers.

    Vectors that would take more than MOST_BYTES are not read either.
    """
    if "vector" not in table.nested:
        return None
    found: Floats | None = None
    start = 0
    for column in stream(table, "vector"):
        try:
            lengths = column.value_lengths()
            width = lengths[0].as_py()
            is_even = not column.null_count and all(n == width for n in lengths.to_pylist())
        except AttributeError:  # no lists
            return None
        if not is_even or not width or table.rows * width * 4 > MOST_BYTES:
            return None
        if found is None:
            found = np.empty((table.rows, width), np.float32)
        try:
            with np.errstate(over="ignore"):
                values = as_floats(column.flatten()).astype(np.float32).reshape(-1, width)
        except ValueError:
            return None
        if width != found.shape[1] or not np.isfinite(values).all():
            return None
        found[start : start + len(values)] = values
        start += len(values)
    return found
