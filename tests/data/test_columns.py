"""Columns in parts and in mapped files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.base.errors import StorageError
from mae.data.columns import Blobs, Column, Joined, Mapped, chunks, join_columns, map_array

PARTS = [np.arange(3), np.arange(0), np.arange(10, 17)]
WHOLE = np.concatenate(PARTS)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(b"8 bytes." + np.arange(1000, dtype="<i8").tobytes())
    return path


@given(st.lists(st.integers(-10, 9), max_size=20))
def test_a_column_in_parts_reads_as_one_array(rows):
    column = Column(PARTS)
    numbers = np.array(rows, np.int64)
    assert column[numbers].tolist() == WHOLE[numbers].tolist()
    assert [column.item(row) for row in rows] == [WHOLE.item(row) for row in rows]
    assert len(column) == 10 and column.tolist() == list(column) == WHOLE.tolist()
    assert column[2:8:3].tolist() == WHOLE[2:8:3].tolist()
    assert column[WHOLE > 5].tolist() == WHOLE[WHOLE > 5].tolist()
    assert column[3] == WHOLE[3]


def test_columns_are_joined_without_copies():
    joined = join_columns([Column(PARTS), PARTS[0]])
    assert isinstance(joined, Column)
    assert [any(part is one for one in PARTS) for part in joined.parts] == [True] * 4
    assert join_columns([PARTS[0]]) is PARTS[0]
    assert [part.tolist() for part in chunks(joined, 4)] == [
        [0, 1, 2],
        [10, 11, 12, 13],
        [14, 15, 16],
        [0, 1, 2],
    ]


def test_a_mapped_array_is_pickled_as_its_place(file):
    mapped = map_array(file, 8, "<i8", 1000)
    packed = pickle.dumps(mapped)
    assert len(packed) < 500
    again = pickle.loads(packed)
    assert isinstance(again, Mapped) and again.tolist() == list(range(1000))
    part = pickle.loads(pickle.dumps(mapped[5:7]))
    assert part.tolist() == [5, 6]
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_a_file_that_changed_is_not_mapped_again(file):
    packed = pickle.dumps(map_array(file, 8, "<i8", 1000))
    file.write_bytes(b"other content")
    with pytest.raises(StorageError, match="changed while it was in use"):
        pickle.loads(packed)
    with pytest.raises(StorageError, match="cannot be read"):
        map_array(Path(file.parent, "absent"), 0, "<i8", 1)


def test_blobs_and_joined_sequences_index_as_lists():
    texts = [b"one", b"", b"three"]
    blobs = Blobs(np.frombuffer(b"onethree", np.uint8), np.array([0, 3, 3, 8]))
    assert list(blobs) == texts and blobs[-1] == b"three" and blobs[1:] == texts[1:]
    joined = Joined([texts, [], texts[:1]])
    assert list(joined) == [*texts, b"one"] and len(joined) == 4
    assert joined[3] == b"one" and joined[-2] == b"three" and joined[2:] == [b"three", b"one"]
    for sequence in (blobs, joined):
        with pytest.raises(IndexError):
            sequence[4]
