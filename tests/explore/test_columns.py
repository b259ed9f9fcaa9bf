import numpy as np
import pyarrow as pa
import pytest

from mae.explore import columns as module
from mae.explore.columns import Classes, Numbers, label_classes, read_columns
from mae.explore.table import read_table
from tests.explore.tables import columns, write

PLACES = {"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]}


def found(tmp_path, **content):
    columns_ = read_columns(read_table(write(tmp_path / "a.parquet", {**PLACES, **content})))
    return columns_.found, columns_.notes


def test_the_columns_of_embed(tmp_path):
    content = columns(60)
    ones, labels, notes = read_columns(read_table(write(tmp_path / "a.parquet", content)))
    assert labels is ones[0]
    assert [one.name for one in ones] == ["class", "shard", "outlier"] and not notes
    classes, shard, outlier = ones
    assert isinstance(classes, Classes) and classes.names == ["ant", "bee", "cow"]
    assert classes.codes.tolist() == content["label"]
    assert isinstance(shard, Classes) and shard.names == ["train-0.tar", "train-1.tar"]
    assert isinstance(outlier, Numbers) and (outlier.values == content["outlier"]).all()


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    (one,), _ = found(tmp_path, label=[10, 2, 10], **{"class": ["ant", "zebra", "ant"]})
    assert isinstance(one, Classes) and one.names == ["zebra", "ant"]
    assert one.codes.tolist() == [1, 0, 1]


def test_labels_without_names_are_numbers_in_order(tmp_path):
    (one,), _ = found(tmp_path, label=[10, 2, None])
    assert isinstance(one, Classes) and one.name == "label"
    assert one.names == ["2", "10"] and one.codes.tolist() == [1, 0, -1]


def test_columns_of_ones_own(tmp_path):
    (text, flag, number, whole), notes = found(
        tmp_path,
        camera=["b", None, "a"],
        night=[True, False, True],
        score=[0.5, None, np.inf],
        age=[3, 4, 5],
    )
    assert isinstance(text, Classes) and text.names == ["a", "b"]
    assert text.codes.tolist() == [1, -1, 0]
    assert isinstance(flag, Classes) and flag.names == ["False", "True"]
    assert isinstance(number, Numbers) and np.isnan(number.values[1:]).all()
    assert isinstance(whole, Numbers) and whole.values.tolist() == [3, 4, 5]
    assert not notes


def test_what_cannot_be_a_colour_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 2)
    monkeypatch.setattr(module, "MOST_COLUMNS", 1)
    ones, notes = found(
        tmp_path, path=["a", "b", "c"], empty=[None] * 3, one=[1.0] * 3, two=[2.0] * 3
    )
    assert [one.name for one in ones] == ["one"]
    assert notes == [
        "column path is left out: 3 different texts (a colour needs 2 or fewer)",
        "column two is left out: 1 are shown",
    ]


@pytest.mark.parametrize(("shards", "shown"), [("abc", False), ("aab", True)])
def test_the_files_of_a_folder_are_no_column_and_no_note(shards, shown):
    found = module._classes("shard", [f"photos/{name}.png" for name in shards])
    assert isinstance(found, Classes) == shown and (shown or found is None)


def test_texts_lose_control_characters_and_secrets(tmp_path):
    odd = "s3://bucket/a?X-Amz-Signature=abc\x1b[2J"
    (one,), _ = found(tmp_path, **{"na\x07me": [odd, "b\u202e", "b\u202e"]})
    assert isinstance(one, Classes) and one.name == "na\\x07me"
    assert "abc" not in "".join(one.names) and "\x1b" not in "".join(one.names)
    assert "b\\u202e" in one.names


@pytest.mark.parametrize("type_", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_types_of_texts(tmp_path, type_):
    (one,), _ = found(tmp_path, camera=pa.array(["a", "b", "a"]).cast(type_))
    assert isinstance(one, Classes) and one.codes.tolist() == [0, 1, 0]


def test_labels_that_missing_ones_made_floating(tmp_path):
    content = {**PLACES, "label": [3.0, np.nan, 3.0]}
    one, _ = label_classes(read_table(write(tmp_path / "a.parquet", content)))
    assert one is not None and one.names == ["3"] and one.codes.tolist() == [0, -1, 0]


def test_no_labels(tmp_path):
    table = read_table(write(tmp_path / "a.parquet", {**PLACES, "label": [None] * 3}))
    assert label_classes(table) == (None, [])


def test_more_labels_than_codes_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LABELS", 2)
    ones, notes = found(tmp_path, label=[1, 2, 3])
    assert not ones
    assert notes == ["column label is left out: 3 classes (a page has 2 at most)"]


def test_class_numbers_of_one_name_stay_apart(tmp_path):
    content = {"x": [0.0] * 6, "y": [0.0] * 6, "label": [7, 3, 7, 9, None, 5]}
    names = ["cat", "cat", "cat", "cat", "cat", "cat (2)"]
    table = read_table(write(tmp_path / "a.parquet", {**content, "class": names}))
    one, notes = label_classes(table)
    assert one is not None and one.names == ["cat", "cat (2)", "cat (3)", "cat (4)"]
    assert one.codes.tolist() == [2, 0, 2, 3, 0, 1]
    assert notes == ["3 class numbers have the name cat: shown with numbers behind it"]
