"""Tables of embeddings in Parquet."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from mae.base.errors import UserError
from mae.similarity import table
from mae.similarity.table import COLUMNS, Rows, TableWriter, read_origin, read_rows


def rows(start, stop, k=3):
    n = stop - start
    numbers = np.arange(start, stop)
    return Rows(
        key=[f"k{i}" for i in numbers],
        shard=["a.tar"] * n,
        label=np.where(numbers % 2, -1, numbers),
        class_=[None if i % 2 else f"class {i}" for i in numbers],
        vector=np.outer(numbers, np.ones(4)).astype(np.float32),
        image=[b"picture %d" % i for i in numbers],
        xy=np.stack([numbers, -numbers], 1).astype(np.float32),
        ids=np.tile(np.arange(k), (n, 1)),
        distances=np.full((n, k), 0.5, np.float32),
        duplicate_of=np.where(numbers % 3, -1, 0),
        outlier=numbers.astype(np.float32),
    )


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS", 10)
    with TableWriter(tmp_path / "t.parquet", 4, {"feature": "cls", "figures": {}}) as writer:
        for start, stop in ((0, 4), (4, 23), (23, 27)):
            writer.append(rows(start, stop))
    return tmp_path / "t.parquet"


def test_rows_come_back_in_groups(written):
    groups = list(read_rows(written))
    assert [len(one["key"]) for one in groups] == [10, 10, 7]
    expected = rows(0, 27)
    found = {
        name: [one for group in groups for one in group[name]]
        for name in COLUMNS
        if name != "neighbours"
    }
    assert found["key"] == expected.key and found["class"] == expected.class_
    assert found["image"] == expected.image and found["shard"] == expected.shard
    for name in ("label", "duplicate_of", "outlier"):
        np.testing.assert_array_equal(found[name], getattr(expected, name))
    np.testing.assert_array_equal(np.stack(found["vector"]), expected.vector)
    np.testing.assert_array_equal(np.stack([found["x"], found["y"]], 1), expected.xy)
    for part, values in (("ids", expected.ids), ("distances", expected.distances)):
        near = np.concatenate([group["neighbours"][part] for group in groups])
        np.testing.assert_array_equal(near, values)
    assert read_origin(written)["feature"] == "cls"
    assert list(next(read_rows(written, ["x", "key"]))) == ["x", "key"]


def test_other_programs_see_nulls_lists_and_pictures(written):
    read = pq.read_table(written)
    assert tuple(read.column_names) == COLUMNS
    first, second = read.slice(0, 2).to_pylist()
    assert first["image"] == {"bytes": b"picture 0", "path": "k0"}
    assert first["neighbours"] == {"ids": [0, 1, 2], "distances": [0.5] * 3}
    assert second["label"] is None and second["class"] is None and second["duplicate_of"] is None
    features = json.loads(read.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and list(features) == list(COLUMNS)


def test_other_files_are_refused_in_a_line(written, tmp_path, monkeypatch):
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pq.read_table(written).select(["key"]), tmp_path / "other.parquet")
    whole = written.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name, words in (
        ("text", "no Parquet file"),
        ("cut", "no Parquet file"),
        ("other", "no table of embeddings"),
        ("gone", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words) as error:
            read_origin(tmp_path / f"{name}.parquet")
        assert "\n" not in str(error.value)
    middle = bytearray(whole)
    middle[10:200] = bytes(190)
    (tmp_path / "holes.parquet").write_bytes(bytes(middle))
    with pytest.raises(UserError, match="damaged"):
        list(read_rows(tmp_path / "holes.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"maekit\[parquet\]"):
        read_origin(written)
