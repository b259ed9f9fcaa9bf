"""`python -m benchmarks.peers`: its cases, leads and table."""

import json

import pytest

from benchmarks import peers, profile
from benchmarks.implementations import TEXTBOOK
from benchmarks.peers import bench_peers, leads, peers_table
from tests.commands.bench.test_step import row

COST = {"gflop": 1.0, "saved_mb": 2.0, "traffic_mb": 3.0, "operations": 4}


@pytest.fixture
def measured(monkeypatch):
    """Groups of measured cases."""
    groups = []

    def measure(cases, effort, environment, progress, builder):
        assert builder == "benchmarks.implementations"
        groups.append(cases)
        progress(1, 1)
        return [row(case) for case in cases]

    monkeypatch.setattr(peers, "measure", measure)
    monkeypatch.setattr(peers, "costs", lambda case: {"mae": COST, "textbook": COST})
    return groups


def test_peers_are_measured_on_the_same_model_and_batch(measured):
    result = bench_peers(["vit_tiny_patch16_224"], [2, 4], ["eager"], 1)
    assert [[case.name for case in group] for group in measured] == [
        ["transformers eager", "textbook eager", "mae eager"]
    ] * 2
    assert json.loads(json.dumps(result)) == result
    text = peers_table(result)
    assert "vit_tiny_patch16_224, batch 4" in text
    assert "| mae eager beside transformers eager | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) |" in text
    assert "GFLOP/image" in text


def test_leads_are_ratios_round_by_round_within_a_mode(measured):
    bench_peers(["vit_tiny_patch16_224"], [2], ["eager", "compile"])
    theirs, _, ours, their_compiled, *_, our_compiled = measured[0]
    rows = [
        {**row(theirs, (2.0, 3.0)), "cpu_seconds": [2.5, 3.0]},
        row(ours, (1.0, 2.0), memory=1e9),
        row(their_compiled, (8.0, 8.0), memory=None),
        row(our_compiled, (4.0, 4.0)),
    ]
    assert leads(rows) == [
        {
            "mode": "eager",
            "than": "transformers",
            "speed": {"median": 1.75, "low": 1.5, "high": 2.0},
            "cpu": {"median": 2.0, "low": 1.5, "high": 2.5},
            "memory": 0.5,
        },
        {
            "mode": "compile",
            "than": "transformers",
            "speed": dict.fromkeys(SPREAD, 2.0),
            "cpu": dict.fromkeys(SPREAD, 2.0),
        },
    ]
    assert leads([rows[0], {**rows[1], "error": "out of memory"}]) == []


SPREAD = ("median", "low", "high")


def test_an_unknown_encoder_is_refused_in_a_line(capsys):
    assert peers.main(["--models", "vit_none", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks: model.encoder: timm has no model 'vit_none'")


def test_a_step_of_another_implementation_is_profiled(tmp_path):
    out = tmp_path / "profile.json"
    sizes = ["--img-size", "32", "--batch-size", "2", "--decoder-depth", "1", "--device", "cpu"]
    model = ["--implementation", TEXTBOOK, "--model", "vit_tiny_patch16_224"]
    assert profile.main([*model, *sizes, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["kinds"]["matrix products"] > 0
    assert "textbook eager: vit_tiny_patch16_224, batch 2" in out.with_suffix(".md").read_text()
