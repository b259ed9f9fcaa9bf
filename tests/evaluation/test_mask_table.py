import os

import pytest

from mae.base.errors import UserError
from mae.evaluation.mask_table import read_mask_table, stored_name


def test_colours_and_values(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("name,r,g,b\nroad, 128,64,128\n\ncar,0,0,142\nroad,1,2,3\nvoid,0,0,0\n")
    table = read_mask_table(file)
    assert table.of_colours and table.names == ["road", "car"]
    assert table.classes == {0x804080: 0, 142: 1, 0x010203: 0, 0: None}
    file.write_text("\ufeffName,Value\r\ngood,0\r\ndefect,255\r\n", encoding="utf-8")
    table = read_mask_table(file)
    assert not table.of_colours and table.classes == {0: 0, 255: 1}
    assert stored_name(0x804001, True) == "128,64,1" and stored_name(7, False) == "7"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "is empty: a first line of column names is expected"),
        ("road,1,2,3\n", "first line must be name,r,g,b or name,value, not road,1,2,3"),
        ("name,value\na,0\nb,0\n", "row 3: 0 has a class already"),
        ("name,r,g,b\na,0,0,256\n", "row 2: needs a name and 3 whole numbers from 0 to 255"),
        ("name,value\na,x\n", "row 2: needs a name and 1 whole numbers from 0 to 65,535"),
        ("name,value\na\n", "row 2: needs a name"),
        ("name,value\na,0\nvoid,1\n", "1 classes; 2 to 255 are needed"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, content, line):
    file = tmp_path / "p.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=f"--palette: .*p.csv.*{line}"):
        read_mask_table(file)


def test_tables_of_other_programs(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("Value;Name;\n0;good;\n255;defect, deep;\n;;\n", encoding="utf-16")
    assert read_mask_table(file).names == ["good", "defect, deep"]
    assert read_mask_table(file).classes == {0: 0, 255: 1}


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--palette: .*cannot be read"):
        read_mask_table(tmp_path / "missing.csv")
    (tmp_path / "p.csv").write_bytes(b"a\x00b")
    with pytest.raises(UserError, match=r"--palette: .*is not text in UTF-8"):
        read_mask_table(tmp_path / "p.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    with pytest.raises(UserError, match=r"--palette: .*is a FIFO"):
        read_mask_table(tmp_path / "fifo.csv")
