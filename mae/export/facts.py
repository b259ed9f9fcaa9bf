"""Results and first weights of a run, for the model card; any file may be absent or cut off."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.files import read_json
from mae.evaluation.protocol import LEARNT, PRETRAINED, budget_name
from mae.evaluation.rows import interval, number
from mae.objectives.declaration import Declaration
from mae.training.checkpoint.files import Position
from mae.training.checkpoint.run import Run


class Facts(NamedTuple):
    """Of the checkpoint that is exported, not of later ones."""

    images: int | None
    """how many there are to train on"""
    results: list[tuple[str, str]]
    """what was measured, and what came out"""
    init: dict[str, Any]
    """the run's init.json: which weights it started from; empty where it started from scratch"""


def read_facts(run: Run, position: Position, declared: Declaration) -> Facts:
    """Whatever can be read; `declared`: the run's objective."""
    metrics = _row_until(run.metrics_file, position.step)
    health = _row_until(run.health_file, position.step)
    results = declared.results(metrics, health)
    for path in sorted(run.folder.glob("*.json")):
        report = read_json(path)
        if report.get("step") == position.step:
            results += _accuracies(path.stem, report)
    epoch, samples = number(metrics, "epoch"), number(metrics, "samples")
    images = round(samples / epoch) if samples and epoch else None
    return Facts(images, results, read_json(run.folder / "init.json"))


def _accuracies(name: str, report: dict[str, Any]) -> list[tuple[str, str]]:
    """What a report on labelled images says of this encoder; of others too where it compares."""
    if report.get("untrained"):
        return []
    rows, images = report.get("results"), report.get("test_images", report.get("images"))
    found = []
    for row in rows if isinstance(rows, list) else [report | {"encoder": PRETRAINED}]:
        if not isinstance(row, dict) or row.get("encoder", PRETRAINED) not in LEARNT:
            continue
        if (iou := number(row, "mean_iou")) is not None:  # of a segmentation
            what = f"{row.get('classifier')} of frozen tokens, at {row.get('of')}"
            told = f"mean IoU {iou:.1%}{_certainty(row, 'mean_iou_interval', images)}"
            found.append((f"{name}, {what}", told))
        elif (accuracy := number(row, "accuracy")) is not None:
            of = [name, *filter(None, [row.get("feature")]), f"labels: {budget_name(row)}"]
            deviation = f" ± {100 * row['deviation']:.1f}" if row.get("deviation") else ""
            told = f"{accuracy:.1%}{deviation} of the test images right"
            found.append((", ".join(of), f"{told}{_certainty(row, 'interval', images)}"))
    return found


def _certainty(row: dict[str, Any], key: str, images: object) -> str:
    """` (low–high, n images)`, as far as it is on record."""
    bounds = interval(row, key)
    told = ["–".join(f"{100 * bound:.1f}" for bound in bounds)] if bounds else []
    told += [f"{images:,} images"] if isinstance(images, int) else []
    return f" ({', '.join(told)})" if told else ""


def _row_until(path: Path, step: int) -> dict[str, Any]:
    """The last row of a .jsonl file that is not of a later step."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            found = row if row["step"] <= step else found
        except (ValueError, KeyError, TypeError):
            continue
    return found
