"""Reports of evaluations for people: a line per result."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mae.evaluation.protocol import DRAWS, SLICES, TOP, budget_name

MOST_NAMED = 4


def table(title: str, report: Mapping[str, Any]) -> str:
    """The report's results, and below them what is to be known of them."""
    rows: list[dict[str, Any]] = report["results"]
    others = list(dict.fromkeys(other for row in rows for other in row.get("above", ())))
    varied = [
        kind for kind in (SLICES, DRAWS) if any(row.get("deviation_of") == kind for row in rows)
    ]
    is_ranked = any("top5_accuracy" in row for row in rows)
    heads = ["labels", "top-1", "95 %", *[f"top-{TOP}"] * is_ranked]
    heads += [f"± {kind}" for kind in varied] + ["per class"]
    lines = [[title, *heads, *(f"above {other}" for other in others)]]
    for row in rows:
        spread = f"{100 * row['deviation']:.1f}"
        lines.append(
            [
                f"{row['encoder']} {row['feature']}",
                budget_name(row),
                f"{row['accuracy']:.1%}",
                percents(row["interval"]),
                *[f"{row['top5_accuracy']:.1%}" if "top5_accuracy" in row else ""] * is_ranked,
                *(spread if row.get("deviation_of") == kind else "" for kind in varied),
                f"{row['balanced_accuracy']:.1%}",
                *(difference(row.get("above", {}).get(other)) for other in others),
            ]
        )
    return "\n".join([*aligned(lines), *(f"note: {note}" for note in remarks(report))])


def remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    yield from report.get("notes", ())
    edge, stopped = [], []
    for row in report["results"]:
        name = f"{row['encoder']} {row['feature']}, {budget_name(row)}"
        if any(row.get("at_edge", ())):
            pairs = zip(row["strengths"], row["at_edge"], strict=True)
            told = ", ".join(f"{c:g}" for c in sorted({c for c, is_edge in pairs if is_edge}))
            edge.append(f"{name} ({told})")
        if not all(row.get("converged", ())):
            stopped.append(name)
    if edge:
        yield f"C at the edge of the candidates, one beyond may do better: {listed(edge)}"
    if stopped:
        yield f"L-BFGS was stopped before it converged: {listed(stopped)}"


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def percents(values: Sequence[float]) -> str:
    """An interval: `41.2–47.9`."""
    low, high = values
    return f"{100 * low:.1f}–{100 * high:.1f}"


def difference(found: Mapping[str, Any] | None) -> str:
    """With its interval: `+8.9 (+6.1 to +11.7)`; "" for none."""
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
