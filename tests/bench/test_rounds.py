"""Cases in processes of their own, measured in turn."""

import io
import json

import pytest
import torch

from mae.bench import child, rounds
from mae.bench.cases import Case
from mae.bench.ceiling import Ceiling
from mae.bench.child import CEILING, serve
from mae.bench.children import Child, Children
from mae.bench.memory import CLEAR, PeakMemory
from mae.bench.rounds import Effort, measure
from mae.errors import RunFailed, UserError

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


def served(what: dict, questions: str) -> list[dict]:
    answers = io.StringIO()
    serve(what, io.StringIO(questions), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_case_answers_each_round():
    ready, *found = served(TINY._asdict(), "0.01\n0.2\n")
    assert ready == {"ready": True}
    assert len(found) == 2
    assert all(one["seconds"] > 0 and one["steps"] >= 1 for one in found)
    assert found[1]["steps"] > found[0]["steps"]


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
    def refuse(what, device):
        raise error

    monkeypatch.setattr(child, "case_rounds", refuse)
    assert served(TINY._asdict(), "1\n") == [{"error": "out of memory"}]


def test_other_errors_are_not_hidden(monkeypatch):
    def break_down(what, device):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(child, "case_rounds", break_down)
    with pytest.raises(RuntimeError, match="shapes"):
        served(TINY._asdict(), "1\n")


@pytest.mark.skipif(not CLEAR.exists(), reason="this system does not reset its memory mark")
def test_peak_memory_is_that_since_the_restart():
    memory = PeakMemory(torch.device("cpu"))
    large = torch.ones(30_000_000)
    del large
    memory.restart()
    small = torch.ones(10_000_000)
    del small
    peak = memory.read()
    assert peak is not None and 35e6 < peak < 100e6


def test_real_processes():
    whats = {
        "ceiling": {CEILING: [64], "precision": "fp32"},
        "wrong": {CEILING: [0.5], "precision": "fp32"},
    }
    with pytest.raises(RunFailed, match=r"a measuring process ended with code 1: .*TypeError"):
        Children(whats, ON_CPU, 2)
    with Children({"ceiling": whats["ceiling"]}, ON_CPU, 1) as children:
        one = children["ceiling"]
        assert one.error is None and one.round(0.01)["size"] == 64
        one.process.kill()
        assert one.round(0.01) == {"error": "out of memory"} and one.error == "out of memory"
        assert one.round(0.01) == {}
    assert one.process.returncode == -9


class FakeChild:
    """Answers what it was told to."""

    def __init__(self, answers: list[dict], error: str | None = None) -> None:
        self.answers, self.error = iter(answers), error

    def round(self, seconds: float) -> dict:
        return {} if self.error else next(self.answers)


def with_children(monkeypatch, children: dict) -> list:
    asked = []

    class Fake:
        def __init__(self, whats, environment, at_once):
            asked.append((whats, environment, at_once))

        def __enter__(self):
            return children

        def __exit__(self, *details):
            pass

    monkeypatch.setattr(rounds, "Children", Fake)
    monkeypatch.setattr(rounds, "gflop_per_image", lambda case: 50.0)
    return asked


def answers(*seconds: float, memory: float = 1e9) -> list[dict]:
    return [{"seconds": one, "memory": memory, "steps": 1} for one in (9.0, *seconds)]


def test_rates_memory_and_share_of_the_ceiling_by_hand(monkeypatch):
    children = {
        CEILING: FakeChild([{"flops": f, "size": 8} for f in (1e15, 1e15, 2e15)]),
        "0": FakeChild(answers(1.0, 2.0)),
        "1": FakeChild(answers(0.5, 0.5, memory=3e9)),
        "2": FakeChild([], error="out of memory"),
    }
    asked = with_children(monkeypatch, children)
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


def test_what_timm_does_not_know_ends_it():
    with pytest.raises(UserError, match="timm has no model"):
        rounds.gflop_per_image(TINY._replace(encoder="vit_none"))


def test_the_operations_are_those_of_the_real_model():
    """58.5 GFLOP for ViT-B/16 with queries for all tokens in the last block, so a little less."""
    whole = rounds.gflop_per_image(Case(encoder="vit_base_patch16_224"))
    assert 56 < whole < 60


def test_a_child_that_is_left_is_gone():
    with Child({CEILING: [16], "precision": "fp32"}, ON_CPU) as one:
        pass
    assert one.process.returncode == -9
