"""`python -m benchmarks.soak`: memory of the loader over many samples."""

import json

from benchmarks.soak import main


def test_memory_is_read_until_the_last_sample(make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path, 64, shard_size=32, size=(40, 50))
    out = tmp_path / "soak.json"
    sizes = ["--samples", "2000", "--batch-size", "20", "--img-size", "16"]
    assert main([shards, *sizes, "--workers", "1", "--out", str(out)]) == 0
    readings = json.loads(out.read_text())["readings"]
    assert readings[-1]["samples"] == 2000 and readings[-1]["workers_mb"] > 1
    assert "2,000" in capsys.readouterr().out.splitlines()[-1]


def test_missing_shards_are_refused_in_a_line(capsys):
    assert main(["/nonexistent/x.tar"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks: ") and "no such shard" in line
