import errno
import json
from pathlib import Path

import pytest

from mae.base.errors import UserError
from mae.base.files import discard, new_file, new_folder, read_json, write_json


def test_full_disk_leaves_the_previous_file(tmp_path, monkeypatch):
    file = tmp_path / "folder" / "probe.json"
    write_json(file, {"step": 1, "loss": None})
    assert read_json(file) == {"step": 1, "loss": None}
    before, write = file.read_bytes(), Path.write_text

    def half(path, text):
        write(path, text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(UserError, match=r"probe.json: cannot be written: No space left on device"):
        write_json(file, {"step": 2})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_uncreatable_parent_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"x.json: cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})


@pytest.mark.parametrize("content", [b"", b'{"step": 1', b"[1]", b"\xff\xfe{}", None])
def test_read_json_of_no_object_is_empty(tmp_path, content):
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    assert read_json(file) == {}
    file.write_text(json.dumps({"a": 1}))
    assert read_json(file) == {"a": 1}


def test_a_clean_up_that_fails_does_not_hide_the_first_error(tmp_path, monkeypatch):
    """Everything on the storage fails from some moment on."""

    def fail(*arguments, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    for make in (new_file, new_folder):
        with (
            monkeypatch.context() as patch,
            pytest.raises(UserError, match="the first error"),
            make(tmp_path / "out"),
        ):
            for name in ("unlink", "rmdir", "rename", "replace"):
                patch.setattr(Path, name, fail)
            patch.setattr("os.rmdir", fail)
            raise UserError("the first error")


def test_discard_deletes_files_folders_and_links_and_never_fails(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "file").touch()
    for name in ("link", "file", "absent"):
        discard(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    discard(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
