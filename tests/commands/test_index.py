"""`mae index` and `mae verify` as tasks of a job array."""

import json

from mae.cli import main


def test_the_join_prints_and_writes_what_one_process_does(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path / "s", 12, shard_size=4)
    wids, manifest = tmp_path / "s" / "index.json", tmp_path / "s" / "m.safetensors"
    words = ["index", shards, "--out", str(manifest), "--wids", str(wids), "--wds2idx", "--stats"]
    assert main(words) == 0
    alone = capsys.readouterr()
    contents = [file.read_bytes() for file in (wids, manifest)]
    for file in (wids, manifest, *(tmp_path / "s").glob("*.idx")):
        file.unlink()
    for number in (2, 1):
        assert main([*words, "--workers", "1", "--part", f"{number}/2"]) == 0
    assert "part 1 of 2 is done" in capsys.readouterr().out
    assert not wids.exists() and not list((tmp_path / "s").glob("*.idx"))
    assert main([*words, "--join"]) == 0
    assert capsys.readouterr() == alone
    assert [file.read_bytes() for file in (wids, manifest)] == contents
    assert len(list((tmp_path / "s").glob("*.idx"))) == 3


def test_defects_are_written_as_json_and_counted_in_the_exit_code(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path / "s", 12, shard_size=4)
    (tmp_path / "s" / "shard-000001.tar").write_bytes(b"?" * 1024)
    out = tmp_path / "v.json"
    words = ["verify", shards, "--workers", "0", "--out", str(out)]
    assert main(words) == 1
    alone, written = capsys.readouterr(), json.loads(out.read_text())
    assert (written["samples"], written["shards"], len(written["bad"])) == (8, 3, 1)
    for number in (1, 2):
        assert main([*words, "--part", f"{number}/2"]) == 0
    capsys.readouterr()
    assert main([*words, "--join"]) == 1
    assert capsys.readouterr() == alone and json.loads(out.read_text()) == written
    assert main(["verify", shards, "--out", str(tmp_path / "v.txt")]) == 2
    assert "v.txt must end in .json" in capsys.readouterr().err
