import errno
import json
from pathlib import Path

import pytest

from mae.base.errors import StorageError, UserError
from mae.base.files import (
    discard,
    file_identity,
    new_file,
    new_folder,
    read_json,
    require_new_folder,
    write_json,
)
from mae.base.parts_folder import parts_path
from mae.compression.compress import require_new


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


def test_the_identity_of_a_file_changes_with_its_content_and_needs_the_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"12")
    before = file_identity(file)
    assert before == (2, file.stat().st_mtime_ns)
    file.write_bytes(b"123")
    assert file_identity(file) != before
    with pytest.raises(StorageError, match="none: cannot be read: No such file"):
        file_identity(tmp_path / "none")


def test_only_a_new_or_an_empty_folder_may_become_an_output(tmp_path):
    require_new_folder(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_new_folder(tmp_path / "empty")
    (tmp_path / "full" / "deep").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, words in (
        ("full", "is not empty; nothing is overwritten"),
        ("file", "is a file"),
    ):
        with pytest.raises(UserError, match=words):
            require_new_folder(tmp_path / name)


@pytest.mark.parametrize("out", [".", "/", "..", "gone/.."])
def test_paths_without_a_name_are_no_outputs(out, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for write, kind in ((new_file, "file"), (new_folder, "folder")):
        words = f"write the name of a new {kind}"
        with pytest.raises(UserError, match=words), write(Path(out)) as part:
            part.touch()
    for require, kind in (
        (require_new_folder, "folder"),
        (require_new, "folder"),
        (parts_path, "file or folder"),
    ):
        with pytest.raises(UserError, match=f"write the name of a new {kind}"):
            require(Path(out))
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_two_writers_of_one_folder_do_not_touch_each_others(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="out: cannot be written"), new_folder(out) as first:
        (first / "first").touch()
        with new_folder(out) as second:
            (second / "second").touch()
        assert (first / "first").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "second"]


def test_temporary_folders_of_killed_writers_are_deleted_and_no_others(tmp_path):
    left, others = tmp_path / ".out.0123abcd.part", [".out.0123abc.part", ".out.b.0123abcd.part"]
    for name in (left.name, *others):
        (tmp_path / name / "half").mkdir(parents=True)
    (tmp_path / ".out.0123abce.part").touch()
    with new_folder(tmp_path / "out"):
        assert not left.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", ".out.0123abce.part", *others}
