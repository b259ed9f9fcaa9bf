import sys

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.explore import table as tables
from mae.explore.table import read_table, read_vectors, stream
from tests.explore.tables import columns, write


def test_a_table_is_read_as_it_was_written(tmp_path):
    content = columns(60)
    table = read_table(write(tmp_path / "a.parquet", content, {"mae": "{}"}))
    assert table.rows == 60 and table.keys == content["key"] and table.metadata["mae"] == "{}"
    assert (table.places == np.stack([content["x"], content["y"]], 1)).all()
    assert (read_vectors(table) == content["vector"]).all()
    assert sum(map(len, stream(table, "image"))) == 60


def test_only_the_places_are_needed(tmp_path):
    found = read_table(write(tmp_path / "a.parquet", {"x": [1, 2], "y": [0.5, 1.0]}))
    assert found.keys == ["row 1", "row 2"] and found.places.tolist() == [[1, 0.5], [2, 1]]
    assert read_vectors(found) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": [1.0], "z": [1.0]}, "no column y (its columns are x, z): mae embed SHARDS"),
        ({"x": [], "y": []}, "has no rows"),
        ({"x": ["1"], "y": [1.0]}, "column x holds no numbers"),
        ({"x": [[1.0]], "y": [1.0]}, "column x holds no numbers"),
        ({"x": [1.0, 2.0, None], "y": [1.0] * 3}, "x of 1 of 3 rows is missing or no finite"),
        ({"x": [1.0, 2.0], "y": [1.0, np.inf]}, "no finite number, first in row 2"),
        ({"x": [1.0], "y": [1e300]}, "no finite number"),
    ],
)
def test_unusable_places_are_refused(tmp_path, content, words):
    with pytest.raises(UserError) as error:
        read_table(write(tmp_path / "a.parquet", content))
    assert words in str(error.value)


def test_no_parquet_is_refused_in_one_line(tmp_path):
    file = tmp_path / "a.parquet"
    for data in (b"", b"PAR1 and no more", b"x,y\n1,2\n" * 20):
        file.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as Parquet") as error:
            read_table(file)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "none.parquet")


def test_damage_inside_is_refused(tmp_path):
    file = write(tmp_path / "a.parquet", columns(200))
    data = bytearray(file.read_bytes())
    table = read_table(file)
    at = data.find(b"\x89PNG")
    data[at - 200 : at + 4000] = b"\xff" * 4200
    file.write_bytes(data)
    with pytest.raises(UserError, match="column image is damaged"):
        list(stream(table, "image"))


def test_two_columns_of_a_name_are_refused(tmp_path):
    from pyarrow import parquet, table

    file = tmp_path / "a.parquet"
    parquet.write_table(table([[1.0], [2.0], [3.0]], names=["x", "y", "x"]), file)
    with pytest.raises(UserError, match="two columns are called x"):
        read_table(file)


def test_long_texts_stay_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_FLAT", 1000)
    content = {"x": [1.0], "y": [1.0], "a.b": ["short"], "text": ["long" * 1000]}
    assert sorted(read_table(write(tmp_path / "a.parquet", content)).flat) == ["a.b", "x", "y"]


def test_too_many_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_ROWS", 50)
    with pytest.raises(UserError, match="has 60 rows; a page shows 50 at most"):
        read_table(write(tmp_path / "a.parquet", columns(60)))


def test_a_missing_pyarrow_is_named(tmp_path, monkeypatch):
    file = write(tmp_path / "a.parquet", columns(3))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'maekit\[parquet\]'"):
        read_table(file)


@pytest.mark.parametrize(
    "vectors", [[[1.0], [1.0, 2.0]], [[1.0], None], [[np.nan], [1.0]], [["a"], ["b"]], [[], []]]
)
def test_vectors_of_other_kinds_are_not_used(tmp_path, vectors):
    content = {"x": [1.0, 2.0], "y": [1.0, 2.0], "vector": vectors}
    assert read_vectors(read_table(write(tmp_path / "a.parquet", content))) is None


def test_vectors_beyond_single_precision_are_not_used(tmp_path):
    content = {"x": [1.0, 2.0], "y": [1.0, 2.0], "vector": [[1.0, 1e300], [0.0, 1.0]]}
    assert read_vectors(read_table(write(tmp_path / "a.parquet", content))) is None


def test_vectors_larger_than_memory_are_not_read(tmp_path, monkeypatch):
    table = read_table(write(tmp_path / "a.parquet", columns(60)))
    monkeypatch.setattr(tables, "MOST_BYTES", 60 * 4 * 4 - 1)
    assert read_vectors(table) is None


def test_keys_are_on_one_line(tmp_path):
    content = {"x": [1.0] * 3, "y": [1.0] * 3, "key": ["a\nb", "\x1b[2J", None]}
    keys = read_table(write(tmp_path / "a.parquet", content)).keys
    assert keys == ["a\\nb", "\\x1b[2J", "row 3"]
