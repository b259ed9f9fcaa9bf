"""Commands and data that the starts of a run recorded, on its page."""

from tests.report.folders import write_rows, write_run
from tests.report.test_page import report

DATASET = {
    "images": 252,
    "shards": 2,
    "shard_bytes": 5e9,
    "formats": {"jpg": 250, "png": 2},
    "labelled": 252,
    "classes": 1,
    "held_out": 401,
}


def test_commands_and_data(tmp_path):
    run = write_run(tmp_path / "run")
    first = {"time": "2026-10-01T08:00:00+00:00", "step": 0, "host": "node1", "folder": "/data"}
    first |= {"command": "mae pretrain x.yaml 'data.train=s/{0..7}.tar' <b>"}
    second = {**first, "step": 400, "command": "mae pretrain x.yaml", "dataset": DATASET}
    write_rows(run / "starts.jsonl", [first, second])
    text = report(run).text
    assert "mae pretrain x.yaml 'data.train=s/{0..7}.tar' <b>" in text
    assert "2026-10-01 08:00 UTC: started on node1, in /data" in text
    assert "resumed at step 400 on node1" in text
    assert "2, 5 GB" in text and "250 jpg, 2 png" in text and "252 images, 1 class " in text
    assert "401" in text


def test_starts_of_earlier_versions_and_strange_ones(tmp_path):
    run = write_run(tmp_path / "run")
    strange = {"dataset": {"images": "many", "formats": 3, "labelled": None}, "command": ["x"]}
    write_rows(run / "starts.jsonl", [{"torch": "2.9"}, {**strange, "step": "x", "host": 7}])
    text = report(run).text
    assert "Commands" in text and "Data" in text
