"""The images that launch/gpu_bench.sh trains on."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PROGRAM = Path(__file__).parents[2] / "launch" / "photographs.py"


def test_they_cost_what_photographs_cost(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("photographs", PROGRAM)
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
    # As in natural images: the power of rows falls with frequency, here to about a fifteenth.
    gray = first.mean(axis=2) - first.mean()
    power = np.abs(np.fft.rfft(gray, axis=1)) ** 2
    low, high = power[:, 4:9].mean(), power[:, 64:129].mean()
    assert 8 < low / high < 40
