import builtins
import csv
import os
import unicodedata

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mae.base.errors import UserError
from mae.pack.listing import PackRequest
from mae.pack.pack import pack
from mae.pack.tables import list_table


@pytest.fixture
def table(tmp_path, make_image):
    """`table(rows, name="t.csv")` writes a table beside the images a.jpg, b.png and sub/c.jpg."""
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.jpg", "b.png", "sub/c.jpg")):
        Image.fromarray(make_image(number)).save(tmp_path / name)

    def write(rows, name="t.csv"):
        path = tmp_path / name
        if name.endswith(".parquet"):
            columns = {key: [row[i] for row in rows[1:]] for i, key in enumerate(rows[0])}
            parquet.write_table(pa.table(columns), path)
        else:
            with path.open("w", newline="") as file:
                csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",").writerows(rows)
        return path

    return write


def labels(listing):
    return {source.reference: source.label for source in listing.sources}


def refused(*arguments, **options):
    with pytest.raises(UserError) as error:
        list_table(*arguments, **options)
    return str(error.value).splitlines()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "T.CSV"])
def test_class_names_are_numbered(table, name):
    path = table([["path", "label"], ["b.png", "dog"], ["a.jpg", "cat"]], name)
    listing = list_table(path)
    assert labels(listing) == {"b.png": 1, "a.jpg": 0}
    assert listing.classes == ("cat", "dog")
    assert listing.reader.read("a.jpg") == (path.parent / "a.jpg").read_bytes()


@pytest.mark.parametrize("numbers", [("7", "0"), ("7.0", "0.0")])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_class_numbers_are_kept(table, name, numbers):
    if name.endswith("parquet"):
        numbers = map(int if numbers[0] == "7" else float, numbers)
    seven, none = numbers
    listing = list_table(table([["path", "label"], ["a.jpg", seven], ["b.png", none]], name))
    assert labels(listing) == {"a.jpg": 7, "b.png": 0} and listing.classes == ()


def test_labels_are_optional(table):
    path = table([["path"], ["a.jpg"], ["sub/c.jpg"]])
    assert labels(list_table(path)) == {"a.jpg": None, "sub/c.jpg": None}
    path = table([["path", "label"], ["a.jpg", ""]])
    assert labels(list_table(path, labels=False)) == {"a.jpg": None}


def test_columns_by_other_names(table):
    path = table([["id", "file", "kind"], ["1", "a.jpg", "x"]])
    assert labels(list_table(path, "file", "kind")) == {"a.jpg": 0}


def test_byte_order_mark_is_ignored(table):
    path = table([["path"], ["a.jpg"]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert labels(list_table(path)) == {"a.jpg": None}


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            ["paths", "x"],
            {},
            "no column path: did you mean --path-column paths? --path-column names",
        ),
        (["File_Name", "x"], {}, "no column path: did you mean --path-column File_Name?"),
        (["a b path", "x"], {}, "no column path: did you mean --path-column 'a b path'?"),
        (
            ["path", "labels"],
            {},
            "no column label, but labels: --label-column labels reads it, --no-",
        ),
        (["path", "Category"], {}, "no column label, but Category: --label-column Category reads"),
        (["path", "lable"], {}, "no column label, but lable: --label-column"),
        (["path", "class name"], {"labels": True}, "no column label: --label-column names one of"),
        (
            ["path", "class"],
            {"labels": True},
            "no column label: did you mean --label-column class?",
        ),
        (["path", "path"], {}, "two columns are called path"),
        (["path", "x"], {"label_column": "lable"}, "no column lable: --label-column names one of"),
        (["path", "x"], {"labels": True}, "no column label: --label-column names one of path, x"),
    ],
)
def test_unknown_column_is_refused(table, header, options, message):
    path = table([header, ["a.jpg", "1"]])
    (line,) = refused(path, **options)
    assert line.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["", "1"], "row 3: no path"),
        (["gone.jpg", "1"], "row 3: gone.jpg: no such file in "),
        (["a.jpg", "0"], "row 3: a.jpg: duplicate of row 2"),
        (["b.png", ""], "row 3: no label (--no-labels packs without classes)"),
        (["b.png"], "row 3: no label"),
        (["b.png", " "], "row 3: no label"),
        (["b.png", "1", "2"], "row 3 has 3 cells for 2 columns: put quotes around"),
        (["b.png", "-1"], "row 3: label -1: class numbers start at 0"),
        (["b.png", str(2**31)], f"row 3: label {2**31}: class numbers"),
    ],
)
def test_invalid_row_is_named(table, row, message):
    path = table([["path", "label"], ["a.jpg", "0"], row])
    (line,) = refused(path)
    assert line.startswith(f"{path}: {message}")


def test_missing_values_in_parquet(table):
    path = table([["path", "label"], ["a.jpg", 0], [None, 1]], "t.parquet")
    assert refused(path) == [f"{path}: row 3: no path"]


def test_all_faults_at_once_but_at_most_ten(table):
    path = table([["path"], *([f"{number}.jpg"] for number in range(25))])
    lines = refused(path)
    assert len(lines) == 11 and lines[-1] == f"{path}: and 15 more faults"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", ",")])
def test_tables_of_other_programs(table, encoding, end, name, delimiter):
    path = table([["path"]], name)
    rows = [[" Path", "x", "LABEL "], ["a.jpg ", "1,5|", " dög"], ["sub\\c.jpg", "", "ant"]]
    text = "".join(delimiter.join(f'"{cell}"' for cell in row) + end for row in rows)
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + text.encode(encoding))
    listing = list_table(path)
    assert labels(listing) == {"a.jpg": 1, "sub/c.jpg": 0}
    assert listing.classes == ("ant", "dög")


def test_labels_that_may_be_one_class_are_named(table):
    path = table([["path", "label"], ["a.jpg", "Cat"], ["b.png", "cat"], ["sub/c.jpg", "dog"]])
    listing = list_table(path)
    assert listing.classes == ("Cat", "cat", "dog")
    assert listing.notes == ("classes that differ in case or blanks only: Cat, cat",)


def test_rows_are_selected(table):
    path = table([["path", "label"], ["a.jpg", "x"], ["b.png", "y"], ["sub/c.jpg", "z"]])
    listing = list_table(path, exclude=["*.png"])
    assert labels(listing) == {"a.jpg": 0, "sub/c.jpg": 1} and listing.classes == ("x", "z")
    assert listing.excluded == (("excluded by --include or --exclude", 1),)
    assert "--include *.gif" in refused(path, include=["*.gif"])[0]


def test_latin_1_is_named(table, tmp_path):
    path = table([["path", "label"]])
    path.write_bytes("path,label\na.jpg,caf\xe9\ncaf\xe9.jpg,x\n".encode("latin-1"))
    hint = "the table is not in UTF-8: save it as CSV in UTF-8"
    assert refused(path) == [
        f"{path}: row 2: label caf\\udce9: {hint}",
        f"{path}: row 3: caf\\udce9.jpg: no such file in {tmp_path} ({hint})",
    ]
    os.rename(tmp_path / "b.png", os.fsencode(tmp_path) + b"/caf\xe9.png")  # noqa: PTH104
    path.write_bytes("path,label\ncaf\xe9.png,x\n".encode("latin-1"))  # as the file is called
    assert labels(list_table(path)) == {"caf\udce9.png": 0}


def test_utf_16_without_a_mark_is_refused(table):
    path = table([["path"], ["a.jpg"]])
    path.write_bytes("path\na.jpg\n".encode("utf-16-le"))
    assert refused(path) == [f"{path}: is not text in UTF-8: save it as CSV in UTF-8"]


def test_rows_are_numbered_as_in_a_spreadsheet(table):
    path = table([["path"], ["a.jpg"], [], [], ["gone.jpg"]])
    (line,) = refused(path)
    assert line.startswith(f"{path}: row 5: gone.jpg: no such file")


def test_two_spellings_of_an_accent_are_one_file_and_one_class(table, tmp_path):
    composed, split = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    (tmp_path / "a.jpg").rename(tmp_path / split)
    path = table([["path", "label"], [composed, composed], ["b.png", split]])
    listing = list_table(path)
    assert labels(listing) == {split: 0, "b.png": 0} and listing.classes == (composed,)
    path = table([["path"], [composed], [split]])
    assert "duplicate of row 2" in refused(path)[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty: a first line of column names is expected"),
        ("t.csv", b"path\n", "no images: the table has no rows"),
        ("t.csv", b'path\n"a.jpg', "cannot be parsed as a table: "),
        ("t.parquet", b"no parquet", "cannot be parsed as Parquet: "),
    ],
)
def test_damaged_or_empty_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    (line,) = refused(tmp_path / name)
    assert line.startswith(f"{tmp_path / name}: {message}")


def test_files_without_an_image_extension_are_skipped(table, tmp_path):
    (tmp_path / "notes.txt").touch()
    listing = list_table(table([["path"], ["a.jpg"], ["notes.txt"]]))
    assert [path for path, _ in listing.skipped] == ["notes.txt"]
    with pytest.raises(UserError, match="no images: expected JPEG"):
        list_table(table([["path"], ["notes.txt"]]))


def test_parquet_without_pyarrow_is_refused(table, monkeypatch):
    path = table([["path"], ["a.jpg"]], "t.parquet")
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert refused(path) == [f"{path}: needs pyarrow: pip install 'maekit[parquet]'"]


def test_table_is_packed(table, tmp_path):
    path = table([["path", "label"], ["a.jpg", "x"], ["sub/c.jpg", "y"]])
    packed = pack(PackRequest((str(path),)), tmp_path / "out", workers=2)
    assert packed.splits == {"train": 2} and packed.classes == ("x", "y")
    rows = (tmp_path / "out" / "sources.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[1] for row in rows} == {"a.jpg", "sub/c.jpg"}


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv is a FIFO, not a file"):
        list_table(tmp_path / "a.csv")
