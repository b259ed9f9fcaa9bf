"""Measurement of cases in turn, each in a process of its own."""

import sys

import pytest

from mae.base.errors import RunFailed, UserError
from mae.commands.bench import rounds
from mae.commands.bench.cases import Case
from mae.commands.bench.child import CEILING
from mae.commands.bench.rounds import Children, Effort, environment, measure

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}

PROGRAM = """
import json, os, sys
task = json.loads(sys.argv[1])
if "wrong" in task:
    sys.exit("first line\\nTypeError: what went wrong")
print(json.dumps({"error": task["error"]} if "error" in task else {"ready": True}), flush=True)
for line in sys.stdin:
    gpus = os.environ["CUDA_VISIBLE_DEVICES"]
    print(json.dumps({"seconds": float(line), "gpus": gpus}), flush=True)
"""


@pytest.fixture
def without_torch(tmp_path, monkeypatch):
    """Replace the measuring process by one that answers immediately."""
    path = tmp_path / "child.py"
    path.write_text(PROGRAM)
    program = [sys.executable, str(path)]
    monkeypatch.setattr(rounds, "command", lambda module, *words: [*program, *words])


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_processes_answer_by_name(at_once, without_torch):
    tasks = {"a": {}, "b": {"error": "out of memory"}, "c": {}}
    with Children(tasks, ON_CPU, at_once) as found:
        assert list(found) == ["a", "b", "c"]
        assert [one.is_out_of_memory for one in found.values()] == [False, True, False]
        assert found["c"].round(0.5) == {"seconds": 0.5, "gpus": ""}
        assert found["b"].round(0.5) == {}
    assert [one.process.returncode for one in found.values()] == [-9] * 3


def test_a_process_killed_for_memory_is_not_measured_again(without_torch):
    with Children({"a": {}}, ON_CPU, 1) as found:
        one = found["a"]
        one.process.kill()
        one.process.wait()
        assert one.round(0.5) == {} and one.is_out_of_memory
        assert one.round(0.5) == {}


def test_a_process_that_fails_ends_the_measurement(without_torch):
    with pytest.raises(UserError, match="no such thing"):
        Children({"a": {}, "b": {"error": "no such thing"}}, ON_CPU, 1)
    with pytest.raises(RunFailed, match=r"ended with code 1: first line \| TypeError: what went"):
        Children({"a": {}, "b": {"wrong": 1}}, ON_CPU, 2)


class FakeChild:
    """Gives prepared answers."""

    def __init__(self, answers: list[dict], is_out_of_memory: bool = False) -> None:
        self.answers, self.is_out_of_memory = iter(answers), is_out_of_memory

    def round(self, seconds: float) -> dict:
        return {} if self.is_out_of_memory else next(self.answers)


def with_children(monkeypatch, fakes: dict) -> list:
    """Replace the processes by `fakes`; returns the arguments of `Children`."""
    started = []

    class Fake:
        def __init__(self, tasks, environment, at_once, builder):
            started.append((tasks, environment, at_once))

        def __enter__(self):
            return fakes

        def __exit__(self, *details):
            pass

    monkeypatch.setattr(rounds, "Children", Fake)
    monkeypatch.setattr(rounds, "gflop_per_image", lambda case: 50.0)
    return started


def answers(*seconds: float, memory: float = 1e9) -> list[dict]:
    """Answers of rounds with steps of `seconds`, after a warm-up round."""
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
    started = with_children(monkeypatch, fakes)
    cases = [TINY, TINY._replace(mode="compile"), TINY._replace(batch_size=4096)]
    first, second, third = measure(cases, Effort(rounds=2, at_once=3), ON_CPU)
    assert started[0][1:] == (ON_CPU, 3) and list(started[0][0]) == [CEILING, "0", "1", "2"]
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


def test_an_unknown_encoder_ends_the_measurement():
    with pytest.raises(UserError, match="timm has no model"):
        rounds.gflop_per_image(TINY._replace(encoder="vit_none"))


def test_the_operations_are_those_of_the_real_model():
    """58.5 GFLOP for ViT-B/16 with queries for all tokens in the last block, so a little less."""
    whole = rounds.gflop_per_image(Case(encoder="vit_base_patch16_224"))
    assert 56 < whole < 60


def test_processes_use_the_chosen_device():
    assert environment("cpu") == {"CUDA_VISIBLE_DEVICES": ""}
    assert environment("cuda") == {}
    assert environment("cuda:1") == {"CUDA_VISIBLE_DEVICES": "1"}


def test_processes_know_the_objectives_of_this_one(toy):
    case = Case(config_file=str(toy), batch_size=4)
    with Children({"toy": case._asdict()}, ON_CPU, 1) as children:
        assert children["toy"].round(0.01)["seconds"] > 0
