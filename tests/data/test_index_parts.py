"""Indexes packed as a part of divided work."""

import numpy as np

from mae.data.index import COLUMNS, IndexedShard
from mae.data.index_parts import pack_indexes, unpack_indexes
from mae.data.labels import NO_LABEL
from mae.data.scan import scan


def test_indexes_come_out_as_they_went_in(tmp_path, make_tar):
    members = [
        ("é.jpg", b"1"),
        ("é.cls", b"dog"),
        ("y.jpg", b"22"),
        ("y.txt", b"?"),
        ("z.heic", b"?"),
    ]
    tars = [
        make_tar(tmp_path / "a.tar", members),
        make_tar(tmp_path / "empty.tar", []),
        make_tar(tmp_path / "c.tar", [("x.png", b"333"), ("x.cls", b"7")]),
    ]
    indexed = [IndexedShard(scan(path), f"state {path.name}") for path in tars]
    found = list(unpack_indexes(pack_indexes(indexed)))
    assert len(found) == 3
    for (index, state), (own, own_state) in zip(found, indexed, strict=True):
        assert state == own_state
        for column, dtype in COLUMNS.items():
            assert getattr(index, column).dtype == dtype
            assert np.array_equal(getattr(index, column), getattr(own, column))
        rest = [name for name in own._fields if name not in COLUMNS]
        assert [getattr(index, name) for name in rest] == [getattr(own, name) for name in rest]
    assert found[0].index.label_names == ("dog",) and found[0].index.label.tolist() == [
        -2,
        NO_LABEL,
    ]
    assert found[0].index.passed_over and found[0].index.others
