import pytest

from mae.data.class_names import class_names, copy_class_names


@pytest.fixture
def shard(tmp_path):
    """Shard with a classes.txt of three names beside it, one of them non-ASCII."""
    (tmp_path / "classes.txt").write_text("cat\nbig dog\nKüken\n", encoding="utf-8")
    return f"{tmp_path}/train-000000.tar"


def test_the_names_beside_the_first_shard(shard):
    assert class_names([shard, "/nowhere/b.tar"], 3) == ["cat", "big dog", "Küken"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_names_of_another_number_of_classes_are_not_these(shard, count):
    assert class_names([shard], count) == [str(number) for number in range(count)]


def test_where_there_are_none_numbers_do(tmp_path, shard):
    first = ["0", "1", "2"]
    assert class_names(["https://example.org/train-000000.tar", shard], 3) == first
    assert class_names(["pipe:cat a.tar", shard], 3) == first
    assert class_names([], 3) == first
    assert class_names([f"{tmp_path}/other/a.tar"], 3) == first
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00cat")
    assert class_names([shard], 3) == first


def test_a_run_keeps_the_names_that_it_started_with(tmp_path, shard):
    run = tmp_path / "run"
    run.mkdir()
    copy_class_names([f"{tmp_path}/other/a.tar"], 3, run)
    copy_class_names([shard], 4, run)
    assert list(run.iterdir()) == [], "none, or of another number"
    copy_class_names([shard], 3, run)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    copy_class_names([shard], 3, run)
    assert [path.name for path in run.iterdir()] == ["classes.txt"]
    assert class_names(["gone/b.tar"], 3, run) == ["cat", "big dog", "Küken"]
    assert class_names([shard], 3, run) == ["cat", "big dog", "Küken"], "not those of now"
    assert class_names([shard], 3, tmp_path / "none") == ["a", "b", "c"]
