"""Table of `benchmarks.auto_choices`: medians over seeds, and auto beside the best of the grid."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median, stdev
from typing import Any

from mae.training.auto import AUTO

DEMO, SCHEDULE = "demo", "vit_small's schedule"
"""the recipe demo_digits as it is, but for channels and statistics; and the model of auto trained
by batch, learning rate and warm-up of the recipe vit_small.  That recipe itself takes longer for
the features of the test images than is spent here in all."""


def table(results: Path, names: Sequence[str]) -> list[str]:
    """Median over the seeds ± their standard deviation, in per cent: a Markdown table for each set.

    Seconds are of CPU time, of the pretraining alone.
    """
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    lines = []
    for name in names:
        own = [row for row in rows if row["set"] == name]
        lines += [f"**{name}**", "", "| | steps | images seen | s | probe | fine-tuned | seeds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for case in dict.fromkeys(row["case"] for row in own):
            found = [row for row in own if row["case"] == case]
            first = found[0]
            counts = f"{first['steps']:,} | {first['images']:,} | {first['seconds']}"
            probed, tuned = (spread(found, key) for key in ("probe", "finetuned"))
            lines.append(f"| {case} | {counts} | {probed} | {tuned} | {len(found)} |")
        auto = [row for row in own if row["case"] == AUTO]
        best = (beside_the_best(own, key) for key in ("probe", "finetuned"))
        lines.append(f"| auto less the best of the grid | | | | {' | '.join(best)} | |")
        untrained, pixels = spread(auto, "untrained"), spread(auto, "pixels")
        lines.append(f"| auto's encoder, untrained | 0 | 0 | 0 | {untrained} | | {len(auto)} |")
        scratch = spread(auto, "scratch")
        lines.append(f"| auto's encoder, from scratch | 0 | 0 | 0 | | {scratch} | {len(auto)} |")
        lines += [f"| raw pixels, 16 x 16 | | | | {pixels} | | {len(auto)} |", ""]
    return lines


def beside_the_best(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Median and range of auto's difference, seed by seed, to the grid's case of highest median."""
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        if key in row and row["case"] not in (SCHEDULE, DEMO):
            values.setdefault(row["case"], {})[row["seed"]] = 100 * row[key]
    auto = values.pop(AUTO, {})
    if not auto or not values:
        return ""
    best = max(values, key=lambda case: median(values[case].values()))
    found = [auto[seed] - value for seed, value in values[best].items() if seed in auto]
    if not found:
        return ""
    return f"{median(found):+.1f} ({min(found):+.1f} to {max(found):+.1f}; {best})"


def spread(rows: Sequence[dict[str, Any]], key: str) -> str:
    """`median ± standard deviation` in per cent, of the rows that have `key`."""
    values = [100 * row[key] for row in rows if key in row]
    if not values:
        return ""
    return f"{median(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
