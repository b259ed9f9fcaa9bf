import numpy as np
import pytest

from mae.explore.relations import NONE, read_copies, read_neighbours
from mae.explore.structure import NEIGHBOURS
from mae.explore.table import read_table
from tests.explore.tables import columns, write


def table_of(tmp_path, **content):
    count = len(next(iter(content.values())))
    places = {"x": [0.0] * count, "y": [0.0] * count}
    return read_table(write(tmp_path / "a.parquet", {**places, **content}))


def test_neighbours_as_written(tmp_path):
    content = columns(200)  # several row groups and batches
    found = read_neighbours(read_table(write(tmp_path / "a.parquet", content)))
    assert found is not None and found.ids.shape == (200, NEIGHBOURS)
    assert found.ids[:, :3].tolist() == [one["ids"] for one in content["neighbours"]]
    assert (found.ids[:, 3:] == NONE).all()
    assert np.allclose(found.distances[:, :3], [0.1, 0.2, 0.3])


def test_neighbours_of_different_number_and_unusable_ones(tmp_path):
    lists = [[1, 2], [], [7, -1, 2, 0], list(range(1, 4)) * 6]
    given = [{"ids": ids, "distances": [0.5] * len(ids)} for ids in lists]
    found = read_neighbours(table_of(tmp_path, neighbours=given))
    assert found is not None
    assert found.ids[0, :3].tolist() == [1, 2, NONE]
    assert (found.ids[1] == NONE).all()
    assert found.ids[2, :4].tolist() == [NONE, NONE, NONE, 0]  # no such row, the row itself
    assert found.ids[3].tolist() == [1, 2, NONE, 1, 2, NONE, 1, 2, NONE, 1]


@pytest.mark.parametrize("values", [[[1], [0]], [{"ids": [1]}, {"ids": [0]}], ["a", "b"]])
def test_other_columns_of_this_name_are_not_used(tmp_path, values):
    assert read_neighbours(table_of(tmp_path, neighbours=values)) is None


def test_copies_of_copies_are_of_the_first(tmp_path):
    table = table_of(tmp_path, duplicate_of=[None, 0, 1, 99, 5, 4])
    found = read_copies(table)
    assert found is not None
    assert found[:4].tolist() == [NONE, 0, 0, NONE]
    assert found[4:].tolist() == [NONE, 4]  # each names the other
    assert read_copies(table_of(tmp_path, key=["a"])) is None


def test_the_smallest_row_of_a_group_is_its_first(tmp_path):
    circle = read_copies(table_of(tmp_path, duplicate_of=[1, 0]))
    assert circle is not None and circle.tolist() == [NONE, 0]
    found = read_copies(table_of(tmp_path, duplicate_of=[None, 4, 4, 2, None, 5]))
    assert found is not None and found.tolist() == [NONE, NONE, 1, 1, 1, NONE]
