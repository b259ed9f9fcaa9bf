"""`launch/gpu_bench.sh`: all parts in one call, with options that its programs accept."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import peers
from mae.cli import build_parser

ROOT = Path(__file__).parents[3]
PHOTOGRAPHS = ROOT / "launch" / "photographs.py"

STUB = """\
#!{python}
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
if words[:1] == ["-"]:  # the program that merges the results
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


def run(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script at toy size."""
    script = ["bash", str(ROOT / "launch" / "gpu_bench.sh"), "--toy"]
    environment = {**os.environ, "OUT": str(out), **variables}
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=1000)


@pytest.fixture(params=[False, True], ids=["all work", "a part fails"])
def stub_run(request, tmp_path):
    """Calls of a run with a stub instead of Python, its output folder, whether a part failed."""
    stub, calls, out = tmp_path / "python", tmp_path / "calls", tmp_path / "out"
    stub.write_text(STUB.format(python=sys.executable, calls=str(calls), fails=request.param))
    stub.chmod(0o755)
    done = run(out, PYTHON=str(stub))
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, calls.read_text().splitlines())), out, request.param


def test_every_part_is_in_the_table(stub_run):
    _, out, fails = stub_run
    model = "vit_tiny_patch16_224"
    parts = [f"step-{model}", "joint", f"peers-{model}", "decode", "joint-crop", "joint-decode"]
    parts += ["profile", "attention"]
    page = (out / "gpu_bench.md").read_text()
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(parts)
    found = json.loads((out / "gpu_bench.json").read_text())
    failed = {f"peers-{model}"} if fails else set()
    assert set(found) == set(parts) - failed
    assert ("Not measured: transformers is missing" in page) == fails


def test_every_program_accepts_its_options(stub_run):
    calls, _, _ = stub_run
    accepted = []
    for _, module, *words in (one for one in calls if one[0] == "-m"):
        parser = peers.build_parser() if module == "benchmarks.peers" else build_parser()
        assert module in ("mae", "benchmarks.peers")
        parser.parse_args(words)
        accepted.append(words[1] if words[0] == "bench" else module)
    assert {"step", "joint", "benchmarks.peers", "decode", "profile", "attention"} <= set(accepted)


@pytest.mark.fault
def test_a_real_run_measures_the_chosen_part(tmp_path):
    """The step runs at toy size by the real program: half a minute on two free cores."""
    part = "step-vit_tiny_patch16_224"
    variables = {"PYTHON": sys.executable, "BENCH_PARTS": "step"}
    done = run(tmp_path, **variables, CUDA_VISIBLE_DEVICES="", BENCH_SECONDS="900")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu_bench.json").read_text())
    assert set(results) == {part}, done.stdout
    steps = results[part]["rows"]
    assert [row["batch_size"] for row in steps] == [2, 4]
    assert all(row["images_per_s"]["median"] > 0 for row in steps)
    page = (tmp_path / "gpu_bench.md").read_text()
    assert f"## {part}\n" in page and "Not measured" not in page
    assert (tmp_path / f"{part}.png").exists()


def test_an_unknown_part_is_refused(tmp_path):
    done = run(tmp_path, BENCH_PARTS="step jiont")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu_bench.sh: BENCH_PARTS: no part jiont; there are step joint")


def test_its_images_resemble_photographs_in_size_and_spectrum(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("photographs", PHOTOGRAPHS)
    assert spec and spec.loader
    photographs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(photographs)
    monkeypatch.setattr(sys, "argv", ["photographs.py", str(tmp_path), "2"])
    monkeypatch.setattr(photographs, "CANVASES", 1)
    photographs.main()
    files = sorted(tmp_path.glob("*.jpg"))
    assert [path.name for path in files] == ["000000.jpg", "000001.jpg"]
    assert all(80_000 < path.stat().st_size < 160_000 for path in files)
    first, second = (np.asarray(Image.open(path), dtype=float) for path in files)
    assert first.shape == (375, 500, 3) and not np.array_equal(first, second)
    # The power of rows falls with frequency as in natural images, here to about a fifteenth.
    gray = first.mean(axis=2) - first.mean()
    power = np.abs(np.fft.rfft(gray, axis=1)) ** 2
    low, high = power[:, 4:9].mean(), power[:, 64:129].mean()
    assert 8 < low / high < 40
