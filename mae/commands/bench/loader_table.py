"""Table of `mae bench loader`."""

from collections.abc import Iterator


def loader_table(result: dict) -> str:
    """Plain-text table of rates with their ratios, time of the parts and pixel differences."""
    return "\n".join(_table_lines(result))


def _table_lines(result: dict) -> Iterator[str]:
    machine, workers, side = result["machine"], result["workers"], result["img_size"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision", "pillow"))
    yield f"{machine['cpu']}, {machine['cores']} cores; {versions}; {machine['date']}"
    yield (
        f"{result['images']} images of {result['bytes_per_image'] / 1000:.0f} kB to {side}×{side}, "
        f"batches of {result['batch_size']}; medians (lowest–highest) of {result['rounds']} rounds"
    )
    yield from _group_lines("one core", result["one_core"], 1)
    if result["processes"]:
        cores = min(workers, machine["cores"])
        yield from _group_lines(f"{workers} worker processes", result["processes"], cores)
    yield from _group_lines("reading alone", result["reading"], 1)
    yield ""
    yield f"{'mae on one core':<34}{'µs per image':>12}"
    for name, times in result["us_per_image"].items():
        yield f"  {name:<32}{times['median']:>12.0f}  ({times['low']:.0f}–{times['high']:.0f})"
    yield ""
    yield f"{'difference to Pillow, of 255':<34}{'mean':>12}{'largest':>10}"
    for name, far in result["pixels"].items():
        yield f"  {name:<32}{far['mean']:>12.3f}{far['max']:>10}"


def _group_lines(title: str, rates: dict[str, dict], cores: int) -> Iterator[str]:
    reference = next(iter(rates))
    per_core = f"{'per core':>10}" if cores > 1 else ""
    yield ""
    yield f"{title:<34}{'images/s':>12}{per_core}{'µs each':>10}    times {reference}"
    for name, rate in rates.items():
        speed, ratio = rate["images_per_s"], rate["ratio"]
        per_core = f"{speed['median'] / cores:>10,.0f}" if cores > 1 else ""
        times = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
        each = 1e6 / speed["median"]
        yield f"  {name:<32}{speed['median']:>12,.0f}{per_core}{each:>10,.0f}    {times}"
