"""Shards divided among processes: the place of their parts, and what two processes do with them."""

import pytest

from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.data import divided_shards
from mae.data.divided_shards import no_log, parts_place
from mae.data.indexing import write_index
from tests.runs import completed, forked
from tests.servers import body

TASK = Portion(0, 2, is_task=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folder of the user's own indexes."""
    folder = tmp_path / "home" / "index"
    monkeypatch.setattr(divided_shards, "DEFAULT_INDEX_DIR", folder)
    return folder


def test_parts_lie_in_the_index_folder_by_a_name_of_their_shards(tmp_path, home, monkeypatch):
    shards = [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    with parts_place("verify", shards, None, ALONE, no_log) as name:
        assert name.parent == tmp_path / ".mae-index" and name.name.startswith("verify-")
    monkeypatch.chdir(tmp_path)
    for same, other in ((["a.tar", "b.tar"], True), (["b.tar", "a.tar"], False)):
        with parts_place("verify", same, None, TASK, no_log) as found:
            assert (found.absolute() == name) is other
    with parts_place("index", shards, tmp_path / "elsewhere", ALONE, no_log) as name:
        assert name.parent.parent == tmp_path / "elsewhere"


def test_parts_lie_in_the_users_own_folder_where_that_cannot_be_written(tmp_path, home):
    (tmp_path / ".mae-index").touch()  # no folder
    shards, said = [f"{tmp_path}/a.tar"], []
    with parts_place("verify", shards, None, ALONE, said.append) as name:
        assert name.parent == home and said == []
    with parts_place("verify", shards, None, TASK, said.append) as name:
        assert name.parent == home
    (line,) = said
    assert line == (
        f"{tmp_path}/.mae-index: cannot be written: the parts lie in {home}, "
        "--index-dir names another one"
    )


def test_without_any_folder_one_process_uses_a_temporary_one(tmp_path, home):
    (tmp_path / ".mae-index").touch()
    home.parent.touch()
    shards = [f"{tmp_path}/a.tar"]
    with parts_place("verify", shards, None, ALONE, no_log) as name:
        assert name.parent.is_dir()
    assert not name.parent.exists()
    with (
        pytest.raises(UserError, match=r"cannot be written, and neither can .*--index-dir"),
        parts_place("verify", shards, None, TASK, no_log),
    ):
        pass


PROGRAM = """
import sys
from pathlib import Path
from mae.cli import main
from mae.data import indexing

def vanishing(*arguments):
    found = expand(*arguments)
    Path(found[-1]).unlink()
    return found

expand, indexing.expand_shards = indexing.expand_shards, vanishing
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_ask_as_often_as_one_and_report_as_one(
    tmp_path, make_shards, server, monkeypatch
):
    """Each remote shard is asked for and fetched once; damaged and vanished ones are one line."""
    shards = make_shards(tmp_path / "set", 12, shard_size=2)
    urls = []
    for path in sorted((tmp_path / "set").glob("*.tar")):
        urls.append(server.serve(f"/{path.name}", body(path.read_bytes(), etag="1")))
    file = tmp_path / "set" / "all.safetensors"
    write_index([shards], file, "index", tmp_path / "local")
    published = server.serve("/all.safetensors", body(file.read_bytes(), etag="1"))
    where = ["--cache-dir", f"{tmp_path}/cache", "--index-dir", f"{tmp_path}/index"]
    (tmp_path / "program.py").write_text(PROGRAM)
    damaged = tmp_path / "set" / "shard-000004.tar"
    damaged.write_bytes(damaged.read_bytes()[:1500])
    chain = [
        ["mae", "index", *urls, *where, "--out", f"{tmp_path}/m.safetensors"],
        ["mae", "verify", published, *where, "--workers", "0"],
        ["mae", "index", shards, "--out", f"{tmp_path}/n.safetensors"],
        ["mae", "index", shards, shards],
        [str(tmp_path / "program.py"), "index", f"{tmp_path}/set/shard-00000[0-3].tar"],
    ]
    words = [word for line in chain for word in [*line, "--then"]][:-1]
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    done = completed(forked(*words))
    for url in urls:
        path = url.removeprefix(server.url)
        assert server.gets(path) == 1
        assert server.requests.count(f"HEAD {path}") == 2, "once by each command"
    asked = [request for request in server.requests if request.endswith("/all.safetensors")]
    assert asked == ["HEAD /all.safetensors", "GET /all.safetensors"]
    out = done.stdout.splitlines()
    assert [line for line in out if line.endswith("all good")] == [
        "12 images in 6 shards: all good"
    ]
    assert [
        line.removeprefix("mae: ") for line in done.stderr.splitlines() if "keeps" not in line
    ] == [
        f"{damaged}: is cut short at byte 1500: no end-of-archive block",
        f"index: shard named twice: {tmp_path}/set/shard-000005.tar",
        f"{tmp_path}/set/shard-000003.tar: cannot be read: No such file or directory",
    ]
