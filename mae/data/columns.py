"""Columns of a manifest: numbers and texts that may lie in mapped files and are read where indexed.

A mapped array takes no memory of the process: its pages are the file's, shared by all processes of
a machine.
"""

import mmap
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from mae.base.errors import StorageError

T = TypeVar("T")


class Mapped(np.ndarray):
    """Array in a file, as `map_array` makes it; pickled as its place in the file."""

    place: "tuple[Path, int, str, int, tuple[int, int]] | None" = None
    """file, position in bytes, type, length, identity of the file; None: a copy or a part"""

    def __reduce__(self) -> Any:
        """Map the file again where this is unpickled, such as in a data worker."""
        if self.place is None:
            return np.asarray(self).__reduce__()
        return map_array, self.place


def map_array(
    file: Path, offset: int, dtype: str, length: int, identity: tuple[int, int] | None = None
) -> Mapped:
    """Array of `length` values at byte `offset` of a file, read-only.

    Raises StorageError where the file cannot be read, or is not the one of `identity` any more.
    """
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if identity and identity != (status.st_size, status.st_mtime_ns):
                raise StorageError(f"{file}: changed while it was in use")
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise StorageError(f"{file}: cannot be read: {error}") from None
    array = np.frombuffer(content, dtype, length, offset).view(Mapped)
    array.place = (file, offset, dtype, length, (status.st_size, status.st_mtime_ns))
    return array


class Column:
    """Numbers of all samples in several arrays, one per data set, which are not copied together."""

    def __init__(self, parts: Sequence[npt.NDArray]) -> None:
        self.parts = tuple(parts)
        self.dtype = self.parts[0].dtype
        self.starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Any) -> Any:
        """Values of rows, given as a number, a slice, numbers [m] or a mask [n]."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        if rows.ndim == 0:
            return self._at(int(rows))
        rows = np.where(rows < 0, rows + len(self), rows)
        part = np.searchsorted(self.starts, rows, "right") - 1
        values = np.empty(rows.shape, self.dtype)
        for number in np.unique(part).tolist():
            own = part == number
            values[own] = self.parts[number][rows[own] - self.starts[number]]
        return values

    def item(self, row: int) -> int:
        """Value of one row as a Python number."""
        return self._at(row).item()

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            yield from part

    def tolist(self) -> list[int]:
        """All values as Python numbers."""
        return np.asarray(self).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray:
        """All values, copied together."""
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def _at(self, row: int) -> Any:
        row += len(self) * (row < 0)
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.parts[part][row - int(self.starts[part])]


AnyColumn: TypeAlias = npt.NDArray | Column
"""numbers of all samples; np.asarray copies those of several data sets together"""


def join_columns(parts: Sequence[AnyColumn]) -> AnyColumn:
    """One column of several, without copying."""
    arrays = [array for one in parts for array in (one.parts if isinstance(one, Column) else [one])]
    return arrays[0] if len(arrays) == 1 else Column(arrays)


def chunks(column: AnyColumn, rows: int = 1 << 20) -> Iterator[npt.NDArray]:
    """All values in order, at most `rows` at a time."""
    for array in column.parts if isinstance(column, Column) else [column]:
        for start in range(0, len(array), rows):
            yield array[start : start + rows]


class Elements(Sequence[T], Generic[T]):
    """Sequence of elements that are made where they are indexed, by `element`."""

    @abstractmethod
    def element(self, number: int) -> T:
        """Element of a number from 0 to the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The element of a number, or those of a slice."""
        length = len(self)
        if isinstance(index, slice):
            return [self.element(number) for number in range(*index.indices(length))]
        if not -length <= index < length:
            raise IndexError(index)
        return self.element(index % length)


class Blobs(Elements[bytes]):
    """Byte strings, one after the other in one array."""

    def __init__(self, content: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> None:
        """`starts` [n + 1]: position of each string, and the end of the last one."""
        self.content, self.starts = content, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def element(self, number: int) -> bytes:
        """The string of a number."""
        return self.content[int(self.starts[number]) : int(self.starts[number + 1])].tobytes()


class Joined(Elements[T], Generic[T]):
    """Several sequences one after the other, not copied together."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = tuple(parts)
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))

    def __len__(self) -> int:
        return self.starts[-1]

    def element(self, number: int) -> T:
        """The element of a number."""
        part = bisect_right(self.starts, number) - 1
        return self.parts[part][number - self.starts[part]]

    def __iter__(self) -> Iterator[T]:
        for part in self.parts:
            yield from part
