from pathlib import Path

import pytest

from mae.base.errors import StorageError
from mae.base.printable import printable
from mae.decoding.pixels import BadImage
from mae.pack.listing import FileReader


def test_printable_names_are_one_line():
    assert printable("a\nb\tc\udcff") == "a\\nb\\tc\\udcff"
    assert printable("käse.jpg") == "käse.jpg"


def test_unreadable_files_raise(tmp_path, monkeypatch):
    reader = FileReader(str(tmp_path))
    with pytest.raises(StorageError, match=r"gone\.jpg: cannot be read: No such file"):
        reader.read("gone.jpg")
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13)))
    with pytest.raises(BadImage, match="cannot be read"):
        reader.read("mine.jpg")
