"""Files of frozen features: safetensors, written row by row, read through memory maps.

Columns: `label` int64 [n] (-1: none), `sample` int64 [n] (number in the data's manifest), features
in float16 ([n d] each, `tokens` [n p d]), `name` (uint8: `shard: key KEY` of each row, joined by
NUL) and `dropped` (uint8: shard, key and error of each image without a row, joined by NUL).

The format (https://huggingface.co/docs/safetensors) is a length, a JSON header and the bytes of
all tensors without gaps.  No library writes it row by row, hence this module.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mae.base.errors import UserError
from mae.base.files import require_regular
from mae.data.class_names import Names
from mae.evaluation.features import Halves

FORMAT = "mae features 1"
"""`format` in the metadata of the header"""

CLASSES = "classes"
"""entry of the metadata with the class names, a JSON list; absent where they are unknown"""

NUMBERS = ("label", "sample")
TEXTS = ("name", "dropped")
DTYPES: dict[str, Any] = {"I64": np.int64, "F16": np.float16, "U8": np.uint8}
SPARE = 64
"""spare bytes in the header for the number of rows, which is known at the end"""

CHUNK = 2**24
"""bytes moved at a time"""


class FeatureSet(NamedTuple):
    """Frozen features of a data set, memory-mapped."""

    vectors: dict[str, Halves]
    """[n d] by name; `tokens` [n p d]"""
    labels: npt.NDArray[np.int64]
    """[n], -1: none"""
    samples: npt.NDArray[np.int64]
    """[n] numbers of the rows in the manifest; bad images have no row"""
    metadata: dict[str, str]
    """origin of the features: encoder, data, crop …"""
    path: Path

    def names(self) -> list[str]:
        """`shard: key KEY` of each row."""
        return _texts(self.path, "name")

    def class_names(self) -> Names:
        """Names of the classes from 0 on; empty: unknown."""
        return tuple(json.loads(self.metadata.get(CLASSES, "[]")))

    def dropped(self) -> list[str]:
        """Shard, key and error of each image that has no row."""
        return _texts(self.path, "dropped")


class FeatureWriter:
    """Writer of at most `most` rows into a new file, without holding them in memory."""

    def __init__(
        self,
        file: BinaryIO,
        most: int,
        shapes: Mapping[str, tuple[int, ...]],
        metadata: Mapping[str, str],
        rows: int = 0,
    ) -> None:
        """`shapes` are the shapes of one row, by name of the feature; `rows`: already written."""
        self.file, self.most, self.rows, self.metadata = file, most, rows, metadata
        self.shapes: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(NUMBERS, ("I64", ()))
        self.shapes |= {name: ("F16", shape) for name, shape in shapes.items()}
        longest = self._header(most, dict.fromkeys(TEXTS, 10**15))
        self.header = -(-(len(longest) + SPARE) // 8) * 8
        """size of the header in bytes, padded with blanks"""

    def append(self, columns: Mapping[str, npt.NDArray]) -> None:
        """Append rows to all columns: NUMBERS and the features."""
        starts = self._starts(self.most)
        for name, (kind, shape) in self.shapes.items():
            values = np.ascontiguousarray(columns[name], DTYPES[kind])
            assert values.shape[1:] == shape, f"{name}: {values.shape} in a column of {shape}"
            self.file.seek(starts[name] + self.rows * _bytes(kind, shape))
            self.file.write(values.tobytes())
        self.rows += len(columns["label"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """Rows of a column that are written, before `finish`."""
        kind, shape = self.shapes[name]
        self.file.seek(self._starts(self.most)[name])
        content = self.file.read(self.rows * _bytes(kind, shape))
        return np.frombuffer(content, DTYPES[kind]).reshape(self.rows, *shape)

    def finish(self, texts: Mapping[str, bytes]) -> None:
        """Close gaps, then write the texts and the header."""
        before, after = self._starts(self.most), self._starts(self.rows)
        for name, (kind, shape) in self.shapes.items():  # fewer rows than there was room for
            self._move(before[name], after[name], self.rows * _bytes(kind, shape))
        self.file.seek(after[""])
        for name in TEXTS:
            self.file.write(texts[name])
        self.file.truncate()
        lengths = {name: len(texts[name]) for name in TEXTS}
        header = self._header(self.rows, lengths).ljust(self.header)
        assert len(header) == self.header
        self.file.seek(0)
        self.file.write(self.header.to_bytes(8, "little") + header)

    def _starts(self, rows: int) -> dict[str, int]:
        """Start of each column in a file of `rows` rows, in bytes; "": end of the last column."""
        starts, position = {}, 8 + self.header
        for name, (kind, shape) in self.shapes.items():
            starts[name] = position
            position += rows * _bytes(kind, shape)
        return {**starts, "": position}

    def _move(self, source: int, target: int, length: int) -> None:
        for done in range(0, length if source != target else 0, CHUNK):
            self.file.seek(source + done)
            piece = self.file.read(min(CHUNK, length - done))
            self.file.seek(target + done)
            self.file.write(piece)

    def _header(self, rows: int, texts: Mapping[str, int]) -> bytes:
        entries: dict[str, object] = {"__metadata__": {"format": FORMAT, **self.metadata}}
        position = 0
        sizes = {name: (kind, (rows, *shape)) for name, (kind, shape) in self.shapes.items()}
        for name, (kind, shape) in {**sizes, **{t: ("U8", (texts[t],)) for t in TEXTS}}.items():
            end = position + _bytes(kind, shape)
            entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [position, end]}
            position = end
        return json.dumps(entries).encode()


def read_header(path: Path) -> tuple[dict[str, str], set[str]]:
    """Metadata and names of the columns of a file of features.

    Raises UserError where the file is incomplete, or not a feature file.
    """
    if path.exists():
        require_regular(path)
    try:
        with safe_open(path, framework="numpy") as whole:  # fails unless the file is whole
            metadata, names = whole.metadata() or {}, set(whole.keys())
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a feature file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: not a feature file of this version; write it again")
    try:
        classes = json.loads(metadata.get(CLASSES, "[]"))
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: not a feature file: its class names are no list of texts")
    return metadata, names


def read_features(path: Path) -> FeatureSet:
    """Open a file of features.  Raises UserError as `read_header` does."""
    metadata, _ = read_header(path)
    header, data = _layout(path)
    columns: dict[str, Any] = {}
    for name, entry in header.items():
        if name not in ("__metadata__", *TEXTS):
            start, shape = data + entry["data_offsets"][0], tuple(entry["shape"])
            columns[name] = np.memmap(path, DTYPES[entry["dtype"]], "r", start, shape)
    labels, samples = (np.array(columns.pop(name)) for name in NUMBERS)
    return FeatureSet(columns, labels, samples, metadata, path)


def _texts(path: Path, name: str) -> list[str]:
    header, data = _layout(path)
    start, end = header[name]["data_offsets"]
    with path.open("rb") as file:
        file.seek(data + start)
        text = file.read(end - start).decode("utf-8", "backslashreplace")
    return text.split("\0") if text else []


def _layout(path: Path) -> tuple[dict[str, Any], int]:
    """Header of a file, and the start of its data in bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return np.dtype(DTYPES[kind]).itemsize * math.prod(shape)
