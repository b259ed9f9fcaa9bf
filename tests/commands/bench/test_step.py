"""`mae bench step`: its cases, table and plot."""

import json

import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.cli import main
from mae.commands.bench import step
from mae.commands.bench.child import CLEAR
from mae.commands.bench.rounds import Effort
from mae.commands.bench.step import bench_step, step_plot, step_table


def row(case, seconds=(1.0, 2.0), memory: float | None = 2e9) -> dict:
    """Row of `measure` for a case whose step takes `seconds`."""
    speeds = sorted(case.batch_size / one for one in seconds)
    middle = sum(speeds) / len(speeds)
    return {
        **case._asdict(),
        "images_per_s": {"median": middle, "low": speeds[0], "high": speeds[-1]},
        "tflop_per_s": 1.234,
        "ceiling_tflop_per_s": 2.468,
        "mfu": {"median": 0.5, "low": 0.4, "high": 0.6},
        "ratio": {"median": 1.5, "low": 1.4, "high": 1.6},
        "memory": memory,
        "seconds": list(seconds),
        "cpu_seconds": list(seconds),
    }


@pytest.fixture
def measured(monkeypatch):
    """Groups of measured cases; the largest batch in eager mode is out of memory."""
    groups = []

    def measure(cases, effort, environment, progress):
        groups.append(cases)
        progress(1, 1)
        largest = max(case.batch_size for case in cases)
        return [
            {**case._asdict(), "error": "out of memory"}
            if case.batch_size == largest and case.mode == "eager" and len(cases) > 3
            else row(case, (1.0, 2.0) if case.mode == "eager" else (0.5, 1.0))
            for case in cases
        ]

    monkeypatch.setattr(step, "measure", measure)
    return groups


def test_all_combinations_are_measured_one_model_at_a_time(measured):
    shown = []
    result = bench_step(
        ["vit_tiny_patch16_224", "vit_small_patch16_224"],
        [2, 4],
        ["eager", "compile"],
        [1, 8],
        effort=Effort(rounds=1),
        progress=lambda *news: shown.append(news),
    )
    assert len(measured) == 4 and all(len(group) == 4 for group in measured)
    assert [(group[0].encoder, group[0].decoder_depth) for group in measured] == [
        ("vit_tiny_patch16_224", 1),
        ("vit_tiny_patch16_224", 8),
        ("vit_small_patch16_224", 1),
        ("vit_small_patch16_224", 8),
    ]
    assert [(c.batch_size, c.mode) for c in measured[0]] == [
        (2, "eager"),
        (2, "compile"),
        (4, "eager"),
        (4, "compile"),
    ]
    assert shown[0] == ("vit_tiny_patch16_224, decoder of 1", 1, 1)
    assert json.loads(json.dumps(result)) == result

    text = step_table(result)
    assert "1 rounds" in text.splitlines()[0] and result["machine"]["cpu"] in text
    lines = [line for line in text.splitlines() if line.startswith("| vit")]
    assert len(lines) == 16
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells == [
        "vit_tiny_patch16_224 eager",
        "1",
        "2",
        "1.5 (1–2)",
        "1.23 of 2.47",
        "50%",
        "2",
        "1.50",
    ]
    assert "out of memory" in lines[2] and "out of memory" not in lines[3]
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_plot_has_a_curve_for_each_model_and_mode(measured):
    result = bench_step(["vit_tiny_patch16_224"], [2, 4, 8], ["eager", "compile"])
    picture = step_plot(result)
    colours = {colour for _, colour in picture.getcolors(2**20) or []}
    assert {(0x21, 0x66, 0xAC), (0xD6, 0x60, 0x4D)} <= colours
    assert picture.width == 1280
    for one in result["rows"]:  # an empty plot, no error
        one["error"] = "out of memory"
    blank = {colour for _, colour in step_plot(result).getcolors(2**20) or []}
    assert len(blank) < len(colours)


def test_the_command_writes_result_table_and_plot(tmp_path, capsys):
    out = tmp_path / "step.json"
    command = f"bench step --quick --models vit_tiny_patch16_224 --img-size 32 --batch-sizes 2 \
        --modes eager --decoder-depths 1 --at-once 2 --device cpu \
        --out {out} --plot {tmp_path}/step.png"
    assert main(command.split()) == 0
    result = json.loads(out.read_text())
    (only,) = result["rows"]
    assert only["images_per_s"]["median"] > 0 and 0 < only["mfu"]["median"] < 1
    # 8 M weights with gradients and two moments each, activations and libraries.
    assert only["memory"] is None if not CLEAR.exists() else 100e6 < only["memory"] < 1e9
    assert (tmp_path / "step.md").read_text() in capsys.readouterr().out
    with Image.open(tmp_path / "step.png") as picture:
        assert picture.width == 1280


def test_variants_are_measured_after_the_defaults(measured):
    bench_step(["a"], [2], ["eager"], variants=["", "model.mask_ratio=0.9,data.repeats=2"])
    (group,) = measured
    assert [case.settings for case in group] == ["", "model.mask_ratio=0.9,data.repeats=2"]
    assert group[1].config().model.mask_ratio == 0.9
    assert group[1].name == "mae eager model.mask_ratio=0.9,data.repeats=2"
    with pytest.raises(UserError, match="did you mean mask_ratio"):
        group[0]._replace(settings="model.mask_raito=0.9").config()
