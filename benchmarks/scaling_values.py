"""Numbers in the sentences of the page of scaling, and numbers as text."""

from collections.abc import Mapping
from typing import Any

from benchmarks.data_needs import (
    Cluster,
    DataSet,
    cache_bytes,
    hours,
    manifest_bytes,
    reads_through_cache,
    requests_at_start,
)
from benchmarks.measured import Known

IMAGE_BYTES = 110_000
"""bytes of an image, as ImageNet's on average"""
OF_SHARD = 10_000
"""images of a shard: 1.1 GB"""
WINDOW = 4
"""`data.window` with many lanes"""
CORES = 64
"""of a machine that indexes and packs"""
LOAD = "load crops of 224 px"


def images_per_s(known: Known, work: str) -> float:
    """images/s of a core, measured on the images whose size is nearest to IMAGE_BYTES."""
    rows = [row for row in known["images"]["rows"] if row["work"] == work]
    return min(rows, key=lambda row: abs(row["image_bytes"] - IMAGE_BYTES))["images_per_s"]


def rows_per_s(known: Known, work: str) -> float:
    """Samples/s of a core in handling a manifest; `work`: beginning of its name."""
    return _row(known, work)["rows_per_s"]


def bytes_per_sample(known: Known, work: str) -> float:
    """Bytes of memory per sample; `work`: beginning of its name."""
    return _row(known, work)["bytes_per_sample"]


def _row(known: Known, work: str) -> Mapping[str, Any]:
    return next(row for row in known["rows"]["rows"] if row["work"].startswith(work))


def measured_values(known: Known) -> dict[str, Any]:
    """Measured numbers by their names in the texts."""
    requests = {(row["listed"], row["start"]): row for row in known["requests"]["rows"]}
    listed = {
        start: requests["shards", start]["requests"] / requests["shards", start]["shards"]
        for start in ("first", "later")
    }
    cache = {row["copies"]: row["cpu_ms_per_shard"] for row in known["cache"]["rows"]}
    return {
        "measured_shards": requests["manifest", "first"]["shards"],
        "manifest_first": requests["manifest", "first"]["requests"],
        "manifest_later": requests["manifest", "later"]["requests"],
        "list_first": listed["first"],
        "list_later": listed["later"],
        "few_ms": cache[1_000],
        "many_ms": cache[10_000],
        "loaded": f"{images_per_s(known, LOAD):,.0f}",
        "index_gb": CORES * images_per_s(known, "index") * IMAGE_BYTES / 1e9,
        "cached": f"{rows_per_s(known, 'read cached') / 1e6:.0f}",
        "checked": f"{rows_per_s(known, 'check a downloaded') / 1e6:.0f}",
        "compared": f"{rows_per_s(known, 'look for held-out') / 1e6:.0f}",
        "sha256": f"{_row(known, 'sha256')['mb_per_s'] / 1e3:.1f}",
    }


def limit_values(known: Known, rate: float) -> dict[str, Any]:
    """Derived numbers of the limits, for GPUs that take `rate` images/s."""
    one_8, one_9, one_10 = (DataSet(10**n, IMAGE_BYTES, OF_SHARD) for n in (8, 9, 10))
    node, eight, all_nodes = (Cluster(gpus, rate) for gpus in (8, 64, 1024))
    few, small = DataSet(10**6, IMAGE_BYTES, OF_SHARD), DataSet(10**8, IMAGE_BYTES, 1_000)

    def rows_time(samples: int, work: str) -> str:
        return duration_text(hours(samples, rows_per_s(known, work)))

    return {
        "memory_1e8": size_text(one_8.samples * bytes_per_sample(known, "indexes joined")),
        "requests_1e8": f"{requests_at_start(one_8.shards, 1, 8, 'node'):,}",
        "all_1e8": size_text(cache_bytes(one_8, node, "global")),
        "manifest_1e9": size_text(manifest_bytes(one_9)),
        "checked_1e9": rows_time(one_9.samples, "check a downloaded"),
        "labels_1e9": size_text(one_9.samples * bytes_per_sample(known, "labels")),
        "index_1e9": duration_text(hours(one_9.samples, images_per_s(known, "index"))),
        "pack_1e9": duration_text(hours(one_9.samples, images_per_s(known, "pack"))),
        "compared_1e10": rows_time(one_10.samples, "look for held-out"),
        "manifest_1e10": size_text(manifest_bytes(one_10)),
        "window_64": f"{size_text(reads_through_cache(one_9, eight, 'window').all_bytes)}/s",
        "lanes_64": f"{size_text(reads_through_cache(one_9, eight, 'lanes').all_bytes)}/s",
        "cache_16": size_text(cache_bytes(one_9, eight, "lanes", 16, 1024)),
        "small_shards": reads_through_cache(small, node, "lanes").node_requests,
        "few_shards": few.shards,
        "few_times": reads_through_cache(few, all_nodes, "lanes").all_bytes
        / (all_nodes.processes * rate * IMAGE_BYTES),
    }


def size_text(amount: float) -> str:
    """Bytes for people: about three digits and a unit."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= 0.9995 * scale:
            return f"{_three(amount / scale)} {unit}"
    return f"{_three(amount / 1e3)} kB"


def count_text(amount: float) -> str:
    """Number for people, in thousands or millions."""
    return f"{amount / 1e6:.1f} M" if amount >= 1e6 else f"{amount / 1e3:,.0f} k"


def duration_text(hours: float) -> str:
    """Hours for people, in seconds to days."""
    if hours < 1 / 60:
        return f"{_three(3600 * hours)} s"
    if hours < 1:
        return f"{_three(60 * hours)} min"
    return f"{_three(hours)} h" if hours < 72 else f"{_three(hours / 24)} days"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"
