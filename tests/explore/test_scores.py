import json

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.explore.scores import read_scores
from mae.explore.table import read_table
from tests.explore.tables import write


@pytest.fixture
def table(tmp_path):
    content = {
        "x": [0.0] * 3,
        "y": [0.0] * 3,
        "key": ["a", "b", "a"],
        "shard": ["data/0.tar", "data/0.tar", "data/1.tar"],
    }
    return read_table(write(tmp_path / "a.parquet", content))


def written(tmp_path, images):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"images": images}))
    return file


def test_scores_are_found_by_shard_and_key(tmp_path, table):
    rows = [("data/1.tar: key a", 3), ("/other/0.tar: key a", 1.5), ("data/9.tar: key b", 9)]
    file = written(tmp_path, [{"image": name, "score": score} for name, score in rows])
    found, notes = read_scores(file, table)
    assert found.name == "anomaly score"
    assert np.array_equal(found.values, [1.5, np.nan, 3], equal_nan=True)
    assert notes == [
        f"1 of 3 images have no score in {file}",
        "the scores of 1 of 3 images are of shards or files of the same base name in another "
        f"folder: check that {file} is of these images",
    ]


def two_sets(tmp_path, **content):
    """Table of two shards of one base name, with equal keys."""
    shards = ["train/000000.tar", "test/000000.tar"]
    content = {"x": [0.0] * 2, "y": [0.0] * 2, "key": ["a", "a"], "shard": shards, **content}
    return read_table(write(tmp_path / "sets.parquet", content))


def test_shards_of_one_base_name_keep_their_own_scores(tmp_path):
    names = ["test/000000.tar: key a", "train/000000.tar: key a"]
    file = written(tmp_path, [{"image": name, "score": i} for i, name in enumerate(names)])
    found, notes = read_scores(file, two_sets(tmp_path))
    assert found.values.tolist() == [1, 0] and not notes
    file = written(tmp_path, [{"image": names[0], "score": 5}])
    found, notes = read_scores(file, two_sets(tmp_path))
    assert np.array_equal(found.values, [np.nan, 5], equal_nan=True)
    assert notes == [f"1 of 2 images have no score in {file}"]


def test_ambiguous_shards_get_no_score(tmp_path):
    other, known = "/data/other/000000.tar: key a", "test/000000.tar: key a"
    file = written(tmp_path, [{"image": other, "score": 1}])
    with pytest.raises(UserError, match="its scores fit 2 of the 2 images") as error:
        read_scores(file, two_sets(tmp_path))
    assert "\n" not in str(error.value)
    rows = [{"image": known, "score": 1}, {"image": other, "score": 7}]
    found, notes = read_scores(written(tmp_path, rows), two_sets(tmp_path))
    assert np.array_equal(found.values, [np.nan, 1], equal_nan=True)
    assert [note.split(":")[0] for note in notes] == ["1 of 2 images get no score"]


def test_keys_of_other_shards_do_not_count(tmp_path):
    content = {"key": ["a", "b"], "shard": ["train/0.tar", "train/1.tar"]}
    file = written(tmp_path, [{"image": "test/2.tar: key a", "score": 1}])
    with pytest.raises(UserError, match="has scores of other images"):
        read_scores(file, two_sets(tmp_path, **content))


def test_files_of_folders_are_found_by_their_path(tmp_path):
    paths = ["set/cat/1.png", "set/dog/1.png"]
    table = two_sets(tmp_path, key=["cat/1.png", "dog/1.png"], shard=paths)
    file = written(tmp_path, [{"image": path, "score": i} for i, path in enumerate(paths)])
    found, notes = read_scores(file, table)
    assert found.values.tolist() == [0, 1] and not notes


def test_without_shards_a_key_must_be_of_one_image(tmp_path):
    content = {"x": [0.0] * 3, "y": [0.0] * 3, "key": ["a", "a", "b"]}
    table = read_table(write(tmp_path / "keys.parquet", content))
    rows = [{"image": f"0.tar: key {key}", "score": 2} for key in "ab"]
    found, notes = read_scores(written(tmp_path, rows), table)
    assert np.array_equal(found.values, [np.nan, np.nan, 2], equal_nan=True)
    assert notes[0].startswith("2 of 3 images get no score")


@pytest.mark.parametrize("score", ["1e400", "NaN", "-Infinity", "1" + "0" * 400, "1e300", "true"])
def test_scores_that_are_no_numbers_of_a_page_are_absent(tmp_path, table, score):
    file = tmp_path / "scores.json"
    odd = f'{{"image": "data/0.tar: key a", "score": {score}}}'
    file.write_text(f'{{"images": [{odd}, {{"image": "data/0.tar: key b", "score": 1}}]}}')
    found, _ = read_scores(file, table)
    assert np.array_equal(found.values, [np.nan, 1, np.nan], equal_nan=True)


def test_keys_suffice_where_they_are_of_one_image(tmp_path, table):
    file = written(tmp_path, [{"image": "photos/b", "score": 2}, {"image": "b", "score": 4}])
    found, _ = read_scores(file, table)
    assert np.array_equal(found.values, [np.nan, 4, np.nan], equal_nan=True)


@pytest.mark.parametrize("images", [None, [], [3], [{"image": 1, "score": 1}]])
def test_other_files_are_refused(tmp_path, table, images):
    with pytest.raises(UserError, match="holds no scores"):
        read_scores(written(tmp_path, images), table)


def test_scores_of_other_images_are_refused(tmp_path, table):
    with pytest.raises(UserError, match="has scores of other images"):
        read_scores(written(tmp_path, [{"image": "z", "score": 1}]), table)
