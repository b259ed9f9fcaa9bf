import pytest

from mae.base.errors import UserError
from mae.data.class_names import (
    Classes,
    check_kept_names,
    quoted,
    run_classes,
    write_class_names,
)


def test_a_run_keeps_the_names_that_it_started_with(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_class_names((), run)
    assert list(run.iterdir()) == []
    names = ("cat", "big\ndog", "Gr\udcfcn")
    write_class_names(names, run)
    write_class_names(("a", "b", "c"), run)
    assert [path.name for path in run.iterdir()] == ["classes.txt"]
    assert run_classes(["gone/b.tar"], 3, run) == Classes(3, names)
    check_kept_names(names, run, "data.train")
    check_kept_names((), run, "data.train")
    with pytest.raises(UserError, match=r"data\.train: its classes \(a, b, c\) are not those that"):
        check_kept_names(("a", "b", "c"), run, "data.train")


def test_names_of_a_run_without_a_copy(tmp_path):
    (tmp_path / "tr").mkdir()
    (tmp_path / "tr" / "classes.txt").write_text("a\nb\nc\n")
    shards = [f"{tmp_path}/tr/*.tar"]
    assert run_classes(shards, 3, tmp_path / "run") == Classes(3, ("a", "b", "c"))
    assert run_classes(shards, 4, tmp_path / "run") == Classes(4)
    assert run_classes(["pipe:cat a.tar"], 3, tmp_path / "run").shown() == ["0", "1", "2"]
    assert Classes(3, ("a",)).shown() == ["a", "1", "2"]


def test_names_in_messages_are_one_line():
    assert quoted(["a b", "\x1b[31m\nx", "\udcff"]) == "'a b', '\\x1b[31m\\nx', '\\udcff'"
    assert quoted(["x"] * 12).endswith(", … (12 in all)")
