"""Cases in processes of their own, measured in turn."""

import io
import json
import mmap
import sys

import pytest
import torch

from mae.base.errors import RunFailed, UserError
from mae.bench import child, children, rounds
from mae.bench.cases import Case
from mae.bench.ceiling import Ceiling
from mae.bench.child import CEILING, serve
from mae.bench.children import Children
from mae.bench.memory import CLEAR, PeakMemory
from mae.bench.rounds import Effort, measure

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


def served(what: dict, questions: str) -> list[dict]:
    answers = io.StringIO()
    serve(what, io.StringIO(questions), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_case_answers_each_round(monkeypatch):
    asked = []
    monkeypatch.setattr(child, "timed", lambda step, count, device: asked.append(count) or 0.05)
    ready, *found = served(TINY._asdict(), "0.01\n0.2\n")
    assert ready == {"ready": True}
    assert len(found) == 2
    assert [one["steps"] for one in found] == [1, 4] and asked == [1, 1, 4]
    assert all(one["seconds"] == 0.05 for one in found)


def test_the_ceiling_answers_in_operations_per_second():
    what = {CEILING: [32, 256], "precision": "fp32"}
    _, one = served(what, "0.01\n")
    assert one["flops"] > 1e8 and one["size"] == 256


def test_the_ceiling_counts_two_operations_for_each_product(monkeypatch):
    monkeypatch.setattr("mae.bench.ceiling.timed", lambda work, count, device: 2.0)
    ceiling = Ceiling(torch.device("cpu"), torch.float32, [8])
    assert ceiling.measure(1.0) == 2 * 8**3 / 2.0


def test_what_a_user_got_wrong_is_answered():
    (answer,) = served(TINY._replace(encoder="vit_none")._asdict(), "1\n")
    assert answer["error"].startswith("model.encoder: timm has no model 'vit_none'")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 8 bytes")],
)
def test_what_does_not_fit_is_answered(error, monkeypatch):
    def refuse(what, device, build=None):
        raise error

    monkeypatch.setattr(child, "case_rounds", refuse)
    assert served(TINY._asdict(), "1\n") == [{"error": "out of memory"}]

    def refuse_later(what, device, build):
        return lambda seconds: refuse(what, device)

    monkeypatch.setattr(child, "case_rounds", refuse_later)
    assert served(TINY._asdict(), "1\n1\n") == [{"ready": True}, {"error": "out of memory"}]


def test_other_errors_are_not_hidden(monkeypatch):
    def break_down(what, device, build):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(child, "case_rounds", break_down)
    with pytest.raises(RuntimeError, match="shapes"):
        served(TINY._asdict(), "1\n")


@pytest.mark.skipif(not CLEAR.exists(), reason="this system does not reset its memory mark")
def test_peak_memory_is_that_since_the_restart():
    memory = PeakMemory(torch.device("cpu"))
    for size in (120_000_000, 40_000_000):
        memory.restart()
        with mmap.mmap(-1, size) as pages:  # memory that is surely new, unlike malloc's
            pages.write(bytes(size))
    peak = memory.read()
    assert peak is not None and 35e6 < peak < 110e6


PROGRAM = """
import json, os, sys
what = json.loads(sys.argv[1])
if "wrong" in what:
    sys.exit("first line\\nTypeError: what went wrong")
print(json.dumps({"error": what["error"]} if "error" in what else {"ready": True}), flush=True)
for line in sys.stdin:
    gpus = os.environ["CUDA_VISIBLE_DEVICES"]
    print(json.dumps({"asked": float(line), "gpus": gpus}), flush=True)
"""


@pytest.fixture
def without_torch(tmp_path, monkeypatch):
    """Processes that answer at once."""
    path = tmp_path / "child.py"
    path.write_text(PROGRAM)
    program = [sys.executable, str(path)]
    monkeypatch.setattr(children, "command", lambda module, *words: [*program, *words])


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_processes_are_asked_by_name(at_once, without_torch):
    whats = {"a": {}, "b": {"error": "out of memory"}, "c": {}}
    with Children(whats, ON_CPU, at_once) as found:
        assert list(found) == ["a", "b", "c"]
        assert [one.is_out_of_memory for one in found.values()] == [False, True, False]
        assert found["c"].round(0.5) == {"asked": 0.5, "gpus": ""}
        assert found["b"].round(0.5) == {}
    assert [one.process.returncode for one in found.values()] == [-9] * 3


def test_a_process_killed_for_memory_is_measured_no_more(without_torch):
    with Children({"a": {}}, ON_CPU, 1) as found:
        one = found["a"]
        one.process.kill()
        one.process.wait()
        assert one.round(0.5) == {} and one.is_out_of_memory
        assert one.round(0.5) == {}


def test_a_process_that_breaks_down_ends_it_all(without_torch):
    with pytest.raises(UserError, match="no such thing"):
        Children({"a": {}, "b": {"error": "no such thing"}}, ON_CPU, 1)
    with pytest.raises(RunFailed, match=r"ended with code 1: first line \| TypeError: what went"):
        Children({"a": {}, "b": {"wrong": 1}}, ON_CPU, 2)


class FakeChild:
    """Answers what it was told to."""

    def __init__(self, answers: list[dict], is_out_of_memory: bool = False) -> None:
        self.answers, self.is_out_of_memory = iter(answers), is_out_of_memory

    def round(self, seconds: float) -> dict:
        return {} if self.is_out_of_memory else next(self.answers)


def with_children(monkeypatch, fakes: dict) -> list:
    asked = []

    class Fake:
        def __init__(self, whats, environment, at_once, module):
            asked.append((whats, environment, at_once))

        def __enter__(self):
            return fakes

        def __exit__(self, *details):
            pass

    monkeypatch.setattr(rounds, "Children", Fake)
    monkeypatch.setattr(rounds, "gflop_per_image", lambda case: 50.0)
    return asked


def answers(*seconds: float, memory: float = 1e9) -> list[dict]:
    return [
        {"seconds": one, "cpu_seconds": one, "memory": memory, "steps": 1}
        for one in (9.0, *seconds)
    ]


def test_rates_memory_and_share_of_the_ceiling_by_hand(monkeypatch):
    fakes = {
        CEILING: FakeChild([{"flops": f, "size": 8} for f in (1e15, 1e15, 2e15)]),
        "0": FakeChild(answers(1.0, 2.0)),
        "1": FakeChild(answers(0.5, 0.5, memory=3e9)),
        "2": FakeChild([], is_out_of_memory=True),
    }
    asked = with_children(monkeypatch, fakes)
    cases = [TINY, TINY._replace(mode="compile"), TINY._replace(batch_size=4096)]
    first, second, third = measure(cases, Effort(rounds=2, at_once=3), ON_CPU)
    assert asked[0][1:] == (ON_CPU, 3) and list(asked[0][0]) == [CEILING, "0", "1", "2"]
    assert first["images_per_s"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    # Round 1: 2 images/s · 50 GFLOP of 1 PFLOP/s; round 2: half the images of twice the ceiling.
    assert first["mfu"] == pytest.approx({"median": 6.25e-5, "low": 2.5e-5, "high": 1e-4})
    assert first["tflop_per_s"] == pytest.approx(0.075)
    assert first["ceiling_tflop_per_s"] == pytest.approx(1500)
    assert first["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert second["ratio"] == {"median": 3, "low": 2, "high": 4}
    assert (first["memory"], second["memory"]) == (1e9, 3e9)
    assert third["error"] == "out of memory" and "images_per_s" not in third
    fakes[CEILING] = FakeChild([], is_out_of_memory=True)
    fakes["0"] = FakeChild(answers(1.0))
    with pytest.raises(RunFailed, match="no memory left for the matrices"):
        measure(cases[:1], Effort(rounds=1), ON_CPU)


def test_what_timm_does_not_know_ends_it():
    with pytest.raises(UserError, match="timm has no model"):
        rounds.gflop_per_image(TINY._replace(encoder="vit_none"))


def test_the_operations_are_those_of_the_real_model():
    """58.5 GFLOP for ViT-B/16 with queries for all tokens in the last block, so a little less."""
    whole = rounds.gflop_per_image(Case(encoder="vit_base_patch16_224"))
    assert 56 < whole < 60
