"""The result of `bench_loader` as a table for people."""

from collections.abc import Iterator


def table(result: dict) -> str:
    """Rates with their spread, ratios to the reference, where the time goes, pixels."""
    return "\n".join(_lines(result))


def _lines(result: dict) -> Iterator[str]:
    machine, workers, side = result["machine"], result["workers"], result["img_size"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torchvision", "pillow"))
    yield f"{machine['cpu']}, {machine['cores']} cores; {versions}; {machine['date']}"
    yield (
        f"{result['images']} images of {result['bytes_per_image'] / 1000:.0f} kB to {side}×{side}, "
        f"batches of {result['batch_size']}; medians (lowest–highest) of {result['rounds']} rounds"
    )
    yield from _rates("one core", result["one_core"], 1)
    if result["processes"]:
        cores = min(workers, machine["cores"])
        yield from _rates(f"{workers} worker processes", result["processes"], cores)
    yield from _rates("reading alone", result["reading"], 1)
    yield ""
    yield f"{'mae on one core':<34}{'µs per image':>12}"
    for name, spread in result["us_per_image"].items():
        yield f"  {name:<32}{spread['median']:>12.0f}  ({spread['low']:.0f}–{spread['high']:.0f})"
    yield ""
    yield f"{'pixels beside Pillow, of 255':<34}{'mean':>12}{'largest':>10}"
    for name, far in result["pixels"].items():
        yield f"  {name:<32}{far['mean']:>12.3f}{far['max']:>10}"


def _rates(title: str, rates: dict[str, dict], cores: int) -> Iterator[str]:
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
