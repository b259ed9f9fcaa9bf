"""Run folders as a run of many steps leaves them."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from mae.objectives.registry import config_type

HEALTH = {
    "images": 500,
    "bad": 0,
    "width": 192,
    "r2": 0.5,
    "r2_interpolation": 0.3,
    "r2_patch_mean": 0.0,
    "rankme": 80.0,
    "spread": 0.6,
    "dead": 0.0,
    "cosine": 0.4,
    "knn": 0.5,
    "probe": 0.6,
    "chance": 0.1,
}


def metric_rows(count: int, every: int = 20) -> list[dict]:
    """Rows of a run that learns: 10 steps an epoch."""
    return [
        {
            "step": i * every,
            "epoch": i * every / 10,
            "samples": i * every * 256,
            "loss": 0.4 + 0.6 * 0.99**i,
            "r2": 0.6 - 0.6 * 0.99**i,
            "lr": 1e-3,
            "images_per_second": 2000.0,
            "data_wait": 0.03,
            "bad": 0,
            "skipped": 0,
            "grad_norm": 0.5,
        }
        for i in range(1, count + 1)
    ]


def write_rows(path: Path, rows: list[dict], cut: str = "") -> None:
    """JSON lines, and behind them what a kill left of another."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + cut)


def write_panel(path: Path, side: int = 64, noise: bool = False) -> Path:
    """A panel: smooth, or such that PNG cannot make it small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape) if noise else np.full(shape, 90)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def write_run(folder: Path, count: int = 100, **train) -> Path:
    """A whole run folder: settings, metrics, health, events, starts, bad images, panels."""
    folder.mkdir(parents=True)
    config = config_type("mae")(output="runs/x").model_dump(mode="json")
    config["train"] |= {"epochs": 200.0, **train}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = metric_rows(count)
    write_rows(folder / "metrics.jsonl", rows)
    health = [{"step": row["step"], "epoch": row["epoch"], **HEALTH} for row in rows[::20]]
    write_rows(folder / "health.jsonl", health)
    events = [
        {"time": "2026-10-01T08:00:00+00:00", "step": 0, "event": "start", "processes": 2},
        {"time": "2026-10-01T09:00:00+00:00", "step": 400, "event": "stop", "signal": "SIGTERM"},
        {"time": "2026-10-01T09:30:00+00:00", "step": 400, "event": "resume", "processes": 1},
        {"time": "2026-10-01T09:40:00+00:00", "step": 900, "event": "spike", "loss": 3.5},
    ]
    write_rows(folder / "events.jsonl", events)
    bad = [
        {"sample": i, "shard": "a.tar", "key": f"key-{i}", "error": "cut", "step": i}
        for i in range(25)
    ]
    write_rows(folder / "quarantine.jsonl", bad)
    starts = [{"torch": "2.9", "gpu": "2 x A"}, {"torch": "2.10", "gpu": "2 x A"}]
    write_rows(folder / "starts.jsonl", starts)
    for step in range(100, 1000, 100):
        write_panel(folder / "panels" / f"step-{step:09d}.png")
    return folder


def write_classifier_run(folder: Path, count: int = 100) -> Path:
    """Write a run folder of fine-tuning: four classes, evaluated every tenth row and at the end."""
    folder.mkdir(parents=True)
    config = config_type("classifier")(output="runs/x", objective="classifier").model_dump(
        mode="json"
    )
    config["train"] |= {"epochs": 200.0}
    config["finetune"] |= {"num_classes": 4}
    config["optim"] |= {"warmup_epochs": 5.0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = metric_rows(count)
    for place, row in enumerate(rows):
        del row["r2"]
        row |= {"accuracy": 0.7 - 0.4 * 0.99**place, "confidence": 0.5}
    write_rows(folder / "metrics.jsonl", rows)
    health = [
        {
            "step": row["step"],
            "epoch": row["epoch"],
            "images": 400,
            "bad": 0,
            "accuracy": 0.8 - 0.5 * 0.98**place,
            "interval": [0.75 - 0.5 * 0.98**place, 0.84 - 0.5 * 0.98**place],
            "balanced_accuracy": 0.78 - 0.5 * 0.98**place,
            "commonest_accuracy": 0.619,
            "classes_answered": 3,
            "top5": 1.0,
            "loss": 0.5 + 0.98**place,
        }
        for place, row in enumerate(rows)
        if place % 10 == 9
    ]
    write_rows(folder / "health.jsonl", health)
    classes = [
        {"class": 0, "name": "cat", "images": 100, "accuracy": 0.9, "interval": [0.82, 0.94]},
        {"class": 1, "name": "big dog", "images": 300, "accuracy": 0.5, "interval": [0.44, 0.56]},
        {"class": 2, "name": "eel", "images": 0, "accuracy": None, "interval": None},
    ]
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                **health[-1],
                "step": 2000,
                "num_classes": 4,
                "commonest_name": "big dog",
                "classes": [{**row, "precision": 0.625} for row in classes],
                "errors": [{"class": "big dog", "taken_for": "cat", "images": 123}],
            }
        )
    )
    write_panel(folder / "evaluation-confusion.png")
    return folder


PROBE = {
    "step": 1900,
    "test_images": 512,
    "results": [
        {
            "encoder": "pretrained",
            "feature": "mean",
            "per_class": 10,
            "accuracy": 0.527,
            "interval": [0.49, 0.57],
        },
        {"encoder": "raw", "feature": "pixels", "accuracy": 0.394, "interval": [0.36, 0.43]},
    ],
}
SEGMENT = {
    "test_images": 77,
    "results": [
        {
            "classifier": "linear",
            "of": "pixels",
            "mean_iou": 0.333,
            "mean_iou_interval": [0.3, 0.36],
            "accuracy": 0.81,
            "accuracy_interval": [0.8, 0.82],
        }
    ],
}
ATTENTIVE = {"step": 1900, "test_images": 512, "accuracy": 0.61, "interval": [0.57, 0.65]}


def write_results(folder: Path) -> None:
    """Write the result files of evaluations into a run folder."""
    for name, found in (("probe", PROBE), ("segment", SEGMENT), ("attentive", ATTENTIVE)):
        (folder / f"{name}.json").write_text(json.dumps(found))
