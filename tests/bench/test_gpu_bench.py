"""launch/gpu_bench.sh: all parts in one call, with programs that take its options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers
from mae.cli import build_parser

ROOT = Path(__file__).parents[2]

STUB = """\
#!{python}
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
if words[:1] == ["-"]:  # the program that puts the results together
    os.execv({python!r}, [{python!r}, *words])
with open({calls!r}, "a") as file:
    print(json.dumps(words), file=file)
if "peers" in words[1] and {fails}:
    sys.exit("transformers is missing")
if "--out" in words:
    out = Path(words[words.index("--out") + 1])
    out.write_text(json.dumps({{"called": words[1:4]}}))
    out.with_suffix(".md").write_text("a table of " + words[1])
"""


@pytest.fixture(params=[False, True], ids=["all work", "a part fails"])
def measured(request, tmp_path):
    """Calls of a run with a stub in Python's place, what it wrote, and whether a part failed."""
    stub, calls, out = tmp_path / "python", tmp_path / "calls", tmp_path / "out"
    stub.write_text(STUB.format(python=sys.executable, calls=str(calls), fails=request.param))
    stub.chmod(0o755)
    script = ["bash", str(ROOT / "launch" / "gpu_bench.sh"), "--toy"]
    environment = {**os.environ, "PYTHON": str(stub), "OUT": str(out)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, calls.read_text().splitlines())), out, request.param


def test_every_part_is_in_the_table(measured):
    _, out, fails = measured
    model = "vit_tiny_patch16_224"
    parts = [f"step-{model}", "joint", f"peers-{model}", "decode", "joint-crop", "joint-decode"]
    parts += ["profile", "attention"]
    page = (out / "gpu_bench.md").read_text()
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(parts)
    found = json.loads((out / "gpu_bench.json").read_text())
    lost = {f"peers-{model}"} if fails else set()
    assert set(found) == set(parts) - lost
    assert ("Not measured: transformers is missing" in page) == fails


def test_every_program_takes_its_options(measured):
    calls, _, _ = measured
    taken = []
    for _, module, *words in (one for one in calls if one[0] == "-m"):
        parser = peers.build_parser() if module == "benchmarks.peers" else build_parser()
        assert module in ("mae", "benchmarks.peers")
        parser.parse_args(words)
        taken.append(words[1] if words[0] == "bench" else module)
    assert {"step", "joint", "benchmarks.peers", "decode", "profile", "attention"} <= set(taken)
