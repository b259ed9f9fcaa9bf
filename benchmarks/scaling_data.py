"""Growth of a data set: tables of measured and derived numbers, for the page of scaling."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.data_needs import (
    Cluster,
    DataSet,
    cache_bytes,
    epoch_hours,
    hours,
    lanes_for,
    manifest_bytes,
    read_at_start,
    reads_of_files,
    reads_through_cache,
    requests_at_start,
)
from benchmarks.measured import Known, measured
from benchmarks.scaling_texts import (
    CACHE,
    HOURS,
    HURRY,
    INDEX,
    LIMIT_ROWS,
    LIMITS,
    ORDERS,
    OVERFLOW,
    PROCESSES,
    RANKS,
    REQUESTS,
)
from benchmarks.scaling_values import (
    CORES,
    IMAGE_BYTES,
    LOAD,
    OF_SHARD,
    WINDOW,
    bytes_per_sample,
    count_text,
    duration_text,
    images_per_s,
    limit_values,
    measured_values,
    size_text,
)
from mae.commands.bench.tables import markdown

SIZES = ((10**6, 8), (10**7, 8), (10**8, 64), (10**9, 256), (10**10, 1024))
"""images and GPUs of the first table"""
MODEL = "ViT-L/16"
"""model of the tables that show one"""
GPUS = (8, 64, 256, 1024)
NEEDS = (
    *("images", "GPUs", "an epoch", "all images", "manifest", "index, one core"),
    *("storage delivers", "to each node", "order, from a server", "`data.cache_gb`"),
)
Table = Iterator[str]


def data_lines(rates: Mapping[str, float], source: str) -> Table:
    """Section on data for `rates`, images/s of one GPU; `source`: their origin."""
    known = measured()
    model = MODEL if MODEL in rates else next(iter(rates))
    values = {
        **{"model": model, "rate": f"{rates[model]:,.0f}", "source": source.partition(":")[0]},
        **{"window": WINDOW, "cores": CORES},
        **measured_values(known),
        **limit_values(known, rates[model]),
        "cores_of_gpu": f"{rates[model] / images_per_s(known, LOAD):,.0f}",
    }

    def text(of: str, section: str = "") -> Table:
        """Lines of a text, with the command and date of a measured section."""
        lines = of.format(**(known[section] if section else {}), **values).splitlines()
        return iter(["", *lines, ""])

    gpus = [f"{number:,} GPUs" for number in GPUS]
    yield from text(HURRY)
    yield from markdown(NEEDS, [_needs(*size, rates[model], known) for size in SIZES])
    yield from text(PROCESSES, "processes")
    yield from markdown(
        ["images", "manifest", "memory of its own", "first batch", "listed in Python", "indexes"],
        list(_processes(known)),
    )
    yield from text(REQUESTS, "requests")
    yield from markdown(
        ["shards × processes", "manifest", "list, a node asks once", "list, each process asks"],
        list(_requests()),
    )
    yield from text(INDEX, "images")
    yield from markdown(["", *map(_kind, _works(known, "index"))], list(_rates(known)))
    yield from text(HOURS)
    yield from markdown(["", "1e7", "1e8", "1e9", "1e10"], list(_hours(known)))
    yield from text(ORDERS)
    yield from markdown(["GB/s", *gpus], list(_storage(rates)))
    yield from text(CACHE, "cache")
    yield from markdown(["cache of a node", *gpus], list(_caches()))
    yield from text(RANKS, "order")
    yield from markdown(
        ["order, ranks", "shards of a rank", "of a node", "at a time", "all nodes together"],
        list(_ranks(known)),
    )
    yield from text(LIMITS)
    for row in LIMIT_ROWS:
        yield f"| {' | '.join(row)} |".format(**values)
    yield from text(OVERFLOW)


def needs_lines(data: DataSet, clusters: Mapping[str, Cluster]) -> Table:
    """Needs of a data set on one number of GPUs, for each model of `clusters`."""
    known = measured()
    first = next(iter(clusters.values()))
    nodes = f"{first.nodes:,} node{'s' * (first.nodes > 1)}"
    index = hours(data.samples, images_per_s(known, "index"))
    settings, cache = _from_server(data, first)
    yield (
        f"{data.samples:,} images of {data.image_bytes / 1e3:,.0f} kB in {data.shards:,} shards: "
        f"{size_text(data.bytes)}; {first.processes:,} GPUs on {nodes}"
    )
    yield (
        f"manifest: {size_text(manifest_bytes(data))}, of which a start reads "
        f"{size_text(read_at_start(data))}; index: {duration_text(index)} of one core"
    )
    set_them = " ".join(f"data.{name}={value}" for name, value in settings.items())
    yield f"shards on a server: {set_them} data.cache_gb={math.ceil(cache / 1e9)}"
    for name, cluster in clusters.items():
        files, cached = reads_of_files(data, cluster), reads_through_cache(data, cluster, "lanes")
        yield (
            f"{name}: an epoch takes {duration_text(epoch_hours(data, cluster))}; storage delivers "
            f"{size_text(cached.all_bytes)}/s in all, {size_text(files.node_bytes)}/s to a node "
            f"({files.node_requests:,.0f} images or {cached.node_requests:,.1f} shards/s); "
            f"{cluster.images_per_s / images_per_s(known, LOAD):,.0f} cores decode for a GPU"
        )


def _from_server(data: DataSet, cluster: Cluster) -> tuple[dict[str, Any], float]:
    """Settings of the order for shards on a server, and the bytes of a node's cache."""
    settings: dict[str, Any] = {"order": "window", "window": 16}
    if cluster.nodes > 1:
        settings = {"order": "lanes", "window": WINDOW, "lanes": lanes_for(cluster.processes)}
    return settings, cache_bytes(data, cluster, **settings)


def _needs(samples: int, gpus: int, rate: float, known: Known) -> Sequence[str]:
    data, cluster = DataSet(samples, IMAGE_BYTES, OF_SHARD), Cluster(gpus, rate)
    settings, cache = _from_server(data, cluster)
    reads = reads_through_cache(data, cluster, settings["order"])
    lanes = f", {settings['lanes']:,}" if "lanes" in settings else ""
    return [
        f"1e{round(math.log10(samples))}",
        f"{gpus:,}",
        duration_text(epoch_hours(data, cluster)),
        size_text(data.bytes),
        size_text(manifest_bytes(data)),
        duration_text(hours(samples, images_per_s(known, "index"))),
        f"{size_text(reads.all_bytes)}/s",
        f"{size_text(reads.node_bytes)}/s",
        f"`{settings['order']}`{lanes}",
        size_text(cache),
    ]


def _processes(known: Known) -> Iterator[Sequence[str]]:
    rows = known["processes"]["rows"]
    for samples in sorted({row["samples"] for row in rows}):
        own = [row for row in rows if row["samples"] == samples]
        yield [
            f"{samples:,}" + ("" if own[0]["is_whole"] else " †"),
            size_text(manifest_bytes(DataSet(samples, IMAGE_BYTES, OF_SHARD))),
            " / ".join(f"{row['private']:.0f}" for row in own) + " MB",
            " / ".join(f"{row['cpu']:.1f}" for row in own) + " s",
            size_text(samples * bytes_per_sample(known, "list of")),
            size_text(samples * bytes_per_sample(known, "indexes joined")),
        ]


def _requests() -> Iterator[Sequence[str]]:
    for shards, processes in ((1_000, 8), (10_000, 64), (100_000, 256), (1_000_000, 1_024)):
        nodes = Cluster(processes, 1.0).nodes
        counts = [
            requests_at_start(shards, nodes, processes, how)
            for how in ("manifest", "node", "process")
        ]
        yield [f"{shards:,} × {processes:,}", *(f"{count:,}" for count in counts)]


def _works(known: Known, work: str) -> Sequence[Mapping[str, Any]]:
    return [row for row in known["images"]["rows"] if row["work"] == work]


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['pixels']} px, {row['image_bytes'] / 1e3:.3g} kB"


def _rates(known: Known) -> Iterator[Sequence[str]]:
    for work in dict.fromkeys(row["work"] for row in known["images"]["rows"]):
        yield [work, *(f"{row['images_per_s']:,}" for row in _works(known, work))]


def _hours(known: Known) -> Iterator[Sequence[str]]:
    for work in ("index", "pack", "pack --resize 256"):
        rate = CORES * images_per_s(known, work)
        times = [duration_text(hours(samples, rate)) for samples in (1e7, 1e8, 1e9, 1e10)]
        yield [f"{work} on {CORES} cores", *times]


def _storage(rates: Mapping[str, float]) -> Iterator[Sequence[str]]:
    data = DataSet(10**9, IMAGE_BYTES, OF_SHARD)
    for name, rate in rates.items():
        clusters = [Cluster(gpus, rate) for gpus in GPUS]
        files = [reads_of_files(data, cluster) for cluster in clusters]
        yield [f"{name}, images/s", *(count_text(one.all_requests) for one in files)]
        window = [reads_through_cache(data, cluster, "window") for cluster in clusters]
        for how, reads in (("files or `lanes`", files), ("server, `window`", window)):
            cells = [f"{one.all_bytes / 1e9:,.0f} ({one.node_bytes / 1e9:,.1f})" for one in reads]
            yield [f"{name}, {how}: in all (to a node)", *cells]


def _caches() -> Iterator[Sequence[str]]:
    clusters = [Cluster(gpus, 1.0) for gpus in GPUS]
    data = DataSet(10**8, IMAGE_BYTES, OF_SHARD)
    yield ["`global`, 1e8 images", *(size_text(cache_bytes(data, c, "global")) for c in clusters)]
    yield ["`window=16`", *(size_text(cache_bytes(data, c, "window")) for c in clusters)]
    for lanes, window in ((None, WINDOW), (1024, WINDOW), (1024, 16)):
        yield [
            f"`lanes={'64, one a GPU' if lanes is None else lanes}`, `window={window}`",
            *(
                size_text(
                    cache_bytes(data, one, "lanes", window, lanes or lanes_for(one.processes))
                )
                for one in clusters
            ),
        ]


def _ranks(known: Known) -> Iterator[Sequence[str]]:
    columns = ("rank_shards", "node_shards", "node_at_once", "all_nodes_shards")
    for row in known["order"]["rows"]:
        yield [f"`{row['mode']}`, {row['ranks']:,}", *(f"{row[column]:,}" for column in columns)]
