"""Measurements of the step as Markdown tables, which people can read as they are."""

from collections.abc import Iterator, Sequence

from mae.bench.cases import model_name
from mae.report.scales import percent


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose first column is words and the others are numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    yield line(heads)
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    yield f"| {' | '.join(rules)} |"
    yield from map(line, rows)


def step_table(result: dict) -> str:
    """Rates, share of the ceiling and memory of each case; all beside the first of its group."""
    heads = ["", "decoder", "batch", *RATES, "times the first"]
    rows = [
        [
            f"{model_name(row)} {row['mode']} {row['settings']}".strip(),
            "–" if row["config_file"] else str(row["decoder_depth"]),
            str(row["batch_size"]),
            *rates_of(row),
            f"{row['ratio']['median']:.2f}" if "ratio" in row else "–",
        ]
        for row in result["rows"]
    ]
    return "\n".join([*about_lines(result), "", *markdown(heads, rows)])


def joint_table(result: dict) -> str:
    """The loop beside the step, and what it waited for."""
    step, loop = result["step"], result["loop"]
    rows = [
        ["step, synthetic images", f"{step['images_per_s']['median']:,.4g}", "–", "–"],
        [
            f"loop, {result['images']:,} images in shards",
            f"{loop['images_per_s']['median']:,.4g}",
            percent(result["share"]),
            percent(loop["data_wait"]),
        ],
    ]
    on_device = f", {result['on_device']} on the device" if result["on_device"] else ""
    about = (
        f"{model_name(result)}, batch {result['batch_size']}, {result['mode']}, "
        f"{result['workers']} data workers{on_device}"
    )
    heads = ["", "images/s", "of the step", "waiting for data"]
    return "\n".join(
        [*about_lines(result), "", about, "", *markdown(heads, rows), "", result["advice"]]
    )


def attention_table(result: dict) -> str:
    """Milliseconds of each kernel at each of the model's lengths."""
    lines = about_lines(result)
    lines += ["", f"{model_name(result)}, batch {result['batch_size']}, {result['dtype']}", ""]
    rows = [
        [
            f"{group['where']}: {group['heads']} heads, {group['queries']} x {group['keys']} "
            f"x {group['dim']}",
            name,
            f"{1000 * kernel['seconds']['median']:.3g}",
            spread_of(kernel["times_as_fast_as_math"]),
        ]
        for group in result["groups"]
        for name, kernel in group["kernels"].items()
    ]
    heads = ["attention, forward + backward", "kernel", "ms", "times as fast as math"]
    return "\n".join([*lines, *markdown(heads, rows)])


def profile_table(result: dict) -> str:
    """Time of each part of a step, and how far its products are from the ceiling."""
    lines = about_lines(result)
    case = f"{result['implementation']} {result['mode']}: {model_name(result)}"
    case += f", batch {result['batch_size']}"
    plain, watched = (f"{1000 * result[name]:.4g} ms" for name in ("seconds_plain", "seconds"))
    lines += ["", f"{case}: a step of {watched} ({plain} without the profiler)"]
    rows = [
        [kind, f"{1000 * seconds:.4g}", percent(seconds / result["seconds"])]
        for kind, seconds in result["kinds"].items()
    ]
    rows.append(
        [
            "for comparison: all products at the ceiling's speed",
            f"{1000 * result['products_at_ceiling']:.4g}",
            percent(result["products_at_ceiling"] / result["seconds"]),
        ]
    )
    single = [
        [f"`{name}`", f"{1000 * seconds:.4g}", percent(seconds / result["seconds"])]
        for name, seconds in result["operations"].items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            *markdown(["kind", "ms", "of the step"], rows),
            "",
            *markdown(["operations that take most", "ms", "of the step"], single),
        ]
    )


def decoding_table(result: dict) -> str:
    """Images per second by each decoder, and how far nvImageCodec's pixels are from libjpeg's."""
    rows = [
        [
            name,
            f"{row['images_per_s']['median']:,.4g}",
            spread_of(row["ratio"]),
        ]
        for name, row in result["rows"].items()
    ]
    lines = [*about_lines(result), "", f"{result['images']:,} JPEGs to pixels", ""]
    lines += markdown(["", "images/s", "times one core"], rows)
    if result["missing"]:
        return "\n".join([*lines, "", f"Not measured: {result['missing']}"])
    mean, largest = result["pixels"]["mean"], result["pixels"]["max"]
    apart = f"{mean:.3f} on average, {largest:.0f} at most"
    return "\n".join([*lines, "", f"nvImageCodec's pixels differ, of 255: {apart}"])


RATES = ("images/s", "TFLOP/s of the ceiling", "MFU", "peak GB")


def rates_of(row: dict) -> list[str]:
    """Cells of a case under RATES."""
    if "error" in row:
        return [row["error"], *("–" for _ in RATES[1:])]
    speed = row["images_per_s"]
    return [
        f"{speed['median']:,.4g} ({speed['low']:,.4g}–{speed['high']:,.4g})",
        f"{row['tflop_per_s']:.3g} of {row['ceiling_tflop_per_s']:.3g}",
        percent(row["mfu"]["median"]),
        f"{row['memory'] / 1e9:.3g}" if row["memory"] else "–",
    ]


def spread_of(found: dict) -> str:
    """Median (lowest–highest)."""
    return f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def about_lines(result: dict) -> list[str]:
    """The machine, and how it was measured."""
    machine = result["machine"]
    device = machine["gpu"] if result["device"] == "cuda" else machine["cpu"]
    where = f"{device}, {machine['cores']} cores" + f", {result['threads']} threads"
    parts = [where, f"torch {machine['torch']}, timm {machine['timm']}"]
    if "rounds" in result:
        parts.append(f"medians (lowest–highest) of {result['rounds']} rounds in turn")
    return ["; ".join([*parts, machine["date"]])]
