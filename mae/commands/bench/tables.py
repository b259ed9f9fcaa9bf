"""Results as Markdown tables, and their files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mae.base.files import write_json
from mae.report.scales import percent

RATES = ("images/s", "TFLOP/s of the ceiling", "MFU", "peak GB")
"""headings of the cells of `rates_of`"""


def write_result(out: Path | None, result: dict, table: str) -> None:
    """Print the table; write the result as JSON to `out` and the table next to it, as .md."""
    print(table)
    if out:
        write_json(out, result)
        out.with_suffix(".md").write_text(f"{table}\n")
        print(out)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table: the first column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    yield line(heads)
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    yield f"| {' | '.join(rules)} |"
    yield from map(line, rows)


def about_lines(result: dict) -> list[str]:
    """One line: machine, threads, versions, rounds and date of a measurement."""
    machine = result["machine"]
    device = machine["gpu"] if result["device"] == "cuda" else machine["cpu"]
    parts = [
        f"{device}, {machine['cores']} cores, {result['threads']} threads",
        f"torch {machine['torch']}, timm {machine['timm']}",
    ]
    if "rounds" in result:
        parts.append(f"medians (lowest–highest) of {result['rounds']} rounds in turn")
    return ["; ".join([*parts, machine["date"]])]


def rates_of(row: dict) -> list[str]:
    """Cells of a measured case, under the headings RATES."""
    if "error" in row:
        return [row["error"], *("–" for _ in RATES[1:])]
    speed = row["images_per_s"]
    return [
        f"{speed['median']:,.4g} ({speed['low']:,.4g}–{speed['high']:,.4g})",
        f"{row['tflop_per_s']:.3g} of {row['ceiling_tflop_per_s']:.3g}",
        percent(row["mfu"]["median"]),
        f"{row['memory'] / 1e9:.3g}" if row["memory"] else "–",
    ]


def spread_of(values: dict) -> str:
    """Median (lowest–highest) of a `timing.spread`."""
    return f"{values['median']:.2f} ({values['low']:.2f}–{values['high']:.2f})"
