"""Measuring process of a case: its answers, the device's peak rate, peak memory."""

import io
import json
import subprocess
import sys

import pytest
import torch

from mae.commands.bench import child
from mae.commands.bench.cases import Case
from mae.commands.bench.child import CEILING, CLEAR, Ceiling, serve

PEAK = """
import mmap
import torch
from mae.commands.bench.child import PeakMemory

memory = PeakMemory(torch.device("cpu"))
for size in (120_000_000, 40_000_000):
    memory.restart()
    with mmap.mmap(-1, size) as pages:  # new pages, unlike malloc's
        pages.write(bytes(size))
print(memory.read())
"""

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)


def served(task: dict, requests: str) -> list[dict]:
    """Answers of a child to `requests`."""
    answers = io.StringIO()
    serve(task, io.StringIO(requests), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_case_answers_each_round(monkeypatch):
    counts = []
    monkeypatch.setattr(
        child, "seconds_per_call", lambda step, count, device: counts.append(count) or 0.05
    )
    ready, *found = served(TINY._asdict(), "0.01\n0.2\n")
    assert ready == {"ready": True}
    assert len(found) == 2
    assert [one["steps"] for one in found] == [1, 4] and counts == [1, 1, 4]
    assert all(one["seconds"] == 0.05 for one in found)


def test_the_ceiling_answers_in_operations_per_second():
    task = {CEILING: [32, 256], "precision": "fp32"}
    _, one = served(task, "0.01\n")
    assert one["flops"] > 1e8 and one["size"] in task[CEILING]


def test_the_ceiling_counts_two_operations_for_each_product(monkeypatch):
    monkeypatch.setattr(child, "seconds_per_call", lambda work, count, device: 2.0)
    ceiling = Ceiling(torch.device("cpu"), torch.float32, [8])
    assert ceiling.measure(1.0) == 2 * 8**3 / 2.0


def test_a_user_error_is_answered():
    (answer,) = served(TINY._replace(encoder="vit_none")._asdict(), "1\n")
    assert answer["error"].startswith("model.encoder: timm has no model 'vit_none'")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 8 bytes")],
)
def test_missing_memory_is_answered(error, monkeypatch):
    def refuse(task, device, builder=None):
        raise error

    monkeypatch.setattr(child, "case_rounds", refuse)
    assert served(TINY._asdict(), "1\n") == [{"error": "out of memory"}]

    def refuse_later(task, device, builder):
        return lambda seconds: refuse(task, device)

    monkeypatch.setattr(child, "case_rounds", refuse_later)
    assert served(TINY._asdict(), "1\n1\n") == [{"ready": True}, {"error": "out of memory"}]


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(task, device, builder):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(child, "case_rounds", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        served(TINY._asdict(), "1\n")


@pytest.mark.skipif(not CLEAR.exists(), reason="this system does not reset its memory mark")
def test_peak_memory_is_measured_from_the_restart():
    """In a process of its own: threads and freed memory of other tests would count."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 35e6 < float(done.stdout) < 110e6
