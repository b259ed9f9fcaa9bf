"""Table of embeddings in one Parquet file: a row per image, for `mae explore` and other tools.

| column         | type                                                     | null |
|----------------|----------------------------------------------------------|------|
| `key`          | string: key of the sample, or name of the file            | no   |
| `shard`        | string: path or address of its shard, or of the file      | no   |
| `label`        | int64: class number                                       | yes  |
| `class`        | string: name of the class                                 | yes  |
| `vector`       | fixed-size list of d float32: the features                | no   |
| `image`        | struct {bytes: binary, path: string}: thumbnail           | no   |
| `x`, `y`       | float32: place on the map                                 | no   |
| `neighbours`   | struct {ids: list<int64>, distances: list<float32>}       | no   |
| `duplicate_of` | int64: row of the first image with the same pixels        | yes  |
| `outlier`      | float32: mean distance to the neighbours                  | no   |

Rows are numbered from 0, in the order of the data.  `neighbours` has the same number of ids in
every row, without the row itself, nearest first; distances are 1 - cosine of the vectors, 0 to 2.
The thumbnail is a JPEG or PNG of at most 64 pixels, gray or of three channels: of more channels the
first three, 16 bits stretched from the 1st to the 99th percentile.

The metadata of the file has, under `mae`, a JSON object (`Origin`), and, under `huggingface`, the
features in the format of Hugging Face's datasets: they show `image` as a picture.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.files import require_regular
from mae.base.redaction import without_secrets

FORMAT = "mae embeddings 1"
"""`format` in the metadata"""
KEY = b"mae"
ROWS = 1000
"""rows of a row group"""
COLUMNS = (
    "key",
    "shard",
    "label",
    "class",
    "vector",
    "image",
    "x",
    "y",
    "neighbours",
    "duplicate_of",
    "outlier",
)
ABSENT = -1
"""number that stands for null in `Rows.label` and `Rows.duplicate_of`"""
MISSING = "Parquet needs pyarrow: pip install 'maekit[parquet]'"


class Rows(NamedTuple):
    """Some rows of a table, n of them."""

    key: Sequence[str]
    shard: Sequence[str]
    label: npt.NDArray[np.int64]
    """[n], ABSENT: none"""
    class_: Sequence[str | None]
    vector: npt.NDArray[np.float32]
    """[n d]"""
    image: Sequence[bytes]
    xy: npt.NDArray[np.float32]
    """[n 2]"""
    ids: npt.NDArray[np.int64]
    """[n k] row numbers of the neighbours"""
    distances: npt.NDArray[np.float32]
    """[n k]"""
    duplicate_of: npt.NDArray[np.int64]
    """[n], ABSENT: none"""
    outlier: npt.NDArray[np.float32]


def require_pyarrow(where: str) -> Any:
    """The module pyarrow; UserError, naming `where`, where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{where}: {MISSING}") from None
    return pyarrow


class TableWriter:
    """Writer of a table in row groups of ROWS rows, which holds no more than that in memory."""

    def __init__(self, path: Path, dimensions: int, origin: Mapping[str, Any]) -> None:
        """`origin`: JSON object on model, projection and figures, kept in the file."""
        from pyarrow import parquet

        self.schema = _schema(dimensions, origin)
        self.file = parquet.ParquetWriter(
            path,
            self.schema,
            compression="zstd",
            use_dictionary=["shard", "class"],
            # Features have the precision of 16 bits: their last bytes are alike.
            use_byte_stream_split=["vector.list.element"],
        )
        self._waiting: list[Rows] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write(self._waiting)
        self.file.close()

    def append(self, rows: Rows) -> None:
        """Append rows; whole row groups are written."""
        self._waiting.append(rows)
        held = sum(len(one.key) for one in self._waiting)
        while held >= ROWS:
            whole = _joined(self._waiting)
            self._write([_slice(whole, 0, ROWS)])
            self._waiting = [_slice(whole, ROWS, held)]
            held -= ROWS

    def _write(self, parts: Sequence[Rows]) -> None:
        rows = _joined(parts) if parts else None
        if rows is not None and len(rows.key):
            self.file.write_table(_table(rows, self.schema), row_group_size=ROWS)


def read_origin(path: Path) -> dict[str, Any]:
    """JSON object that `TableWriter` was given.

    Raises UserError where the file is missing, no Parquet file, damaged, or of another kind.
    """
    return _open(path)[1]


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[dict[str, Any]]:
    """Row groups of a table, as `column → values` (NumPy arrays or lists), one at a time.

    `vector` is [n d], `neighbours` a dictionary of `ids` and `distances` [n k], `image` a list of
    the thumbnails' bytes; nulls are ABSENT in `label` and `duplicate_of`, None in `class`.  Raises
    UserError as `read_origin`.
    """
    file, _ = _open(path)
    from pyarrow import ArrowException

    try:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(columns))
            yield {name: _values(name, table.column(name)) for name in columns}
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from None


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    require_pyarrow(str(path))
    from pyarrow import ArrowException, parquet

    require_regular(path)
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: no Parquet file: {str(error).splitlines()[0]}") from None
    try:
        origin = json.loads((file.schema_arrow.metadata or {})[KEY])
    except (KeyError, ValueError, RecursionError):
        origin = {}
    names = set(file.schema_arrow.names)
    if not isinstance(origin, dict) or origin.get("format") != FORMAT or names < set(COLUMNS):
        raise UserError(f"{path}: no table of embeddings of this version: mae embed writes them")
    return file, origin


def _values(name: str, column: Any) -> Any:
    import pyarrow.compute as pc

    column = column.combine_chunks()
    if name == "vector":
        width = column.type.list_size
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if name == "neighbours":
        return {
            part: column.field(part)
            .flatten()
            .to_numpy(zero_copy_only=False)
            .reshape(len(column), -1)
            for part in ("ids", "distances")
        }
    if name == "image":
        return column.field("bytes").to_pylist()
    if name in ("label", "duplicate_of"):
        return pc.fill_null(column, ABSENT).to_numpy(zero_copy_only=False)
    if name in ("x", "y", "outlier"):
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


def _schema(dimensions: int, origin: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    lists = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
    fields = [
        pa.field("key", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("class", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), dimensions)),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("x", pa.float32()),
        pa.field("y", pa.float32()),
        pa.field("neighbours", lists),
        pa.field("duplicate_of", pa.int64()),
        pa.field("outlier", pa.float32()),
    ]
    known = json.dumps(without_secrets({"format": FORMAT, **origin}))
    metadata = {KEY: known, b"huggingface": json.dumps(_huggingface(dimensions))}
    return pa.schema(fields, metadata=metadata)


def _huggingface(dimensions: int) -> dict[str, Any]:
    """Features in the notation of Hugging Face's datasets."""

    def value(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    def several(kind: str, **more: Any) -> dict[str, Any]:
        return {"feature": value(kind), **more, "_type": "Sequence"}

    kinds = {
        "key": value("string"),
        "shard": value("string"),
        "label": value("int64"),
        "class": value("string"),
        "vector": several("float32", length=dimensions),
        "image": {"_type": "Image"},
        "x": value("float32"),
        "y": value("float32"),
        "neighbours": {"ids": several("int64"), "distances": several("float32")},
        "duplicate_of": value("int64"),
        "outlier": value("float32"),
    }
    return {"info": {"features": kinds}}


def _table(rows: Rows, schema: Any) -> Any:
    import pyarrow as pa

    def lists(values: npt.NDArray, kind: Any) -> Any:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
        starts = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(starts), flat)

    def nullable(values: npt.NDArray[np.int64]) -> Any:
        return pa.array(values, pa.int64(), mask=values == ABSENT)

    vector = pa.array(np.ascontiguousarray(rows.vector, np.float32).reshape(-1), pa.float32())
    images = pa.StructArray.from_arrays(
        [pa.array(rows.image, pa.binary()), pa.array(rows.key, pa.string())], ["bytes", "path"]
    )
    near = pa.StructArray.from_arrays(
        [lists(rows.ids, pa.int64()), lists(rows.distances, pa.float32())], ["ids", "distances"]
    )
    arrays = [
        pa.array(rows.key, pa.string()),
        pa.array(rows.shard, pa.string()),
        nullable(rows.label),
        pa.array(rows.class_, pa.string()),
        pa.FixedSizeListArray.from_arrays(vector, rows.vector.shape[1]),
        images,
        pa.array(np.ascontiguousarray(rows.xy[:, 0]), pa.float32()),
        pa.array(np.ascontiguousarray(rows.xy[:, 1]), pa.float32()),
        near,
        nullable(rows.duplicate_of),
        pa.array(rows.outlier, pa.float32()),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _joined(parts: Sequence[Rows]) -> Rows:
    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], np.ndarray):
            return np.concatenate(values)
        return [one for part in values for one in part]

    return parts[0] if len(parts) == 1 else Rows(*map(join, zip(*parts, strict=True)))


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    columns: list[Any] = [column[start:stop] for column in rows]
    return Rows(*columns)
