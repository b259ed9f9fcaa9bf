"""Needs of a data set's size and a number of GPUs: sizes, rates, requests, times.

Pure functions of numbers that are measured (benchmarks/measured.json) or assumed.  Where the
program decides how much it reads or keeps, its own functions are called.
"""

from typing import Any, NamedTuple

import numpy as np

from mae.config.sections import DataConfig
from mae.data.index import COLUMNS
from mae.data.manifest_file import ROWS_CHECKED
from mae.data.training_data import shards_at_once

KEY = 10
"""bytes of a sample's key: `mae pack` writes nine digits, and a NUL ends them"""
NAME = 20
"""bytes of a shard's name"""
SHARD_ROW = 3 * 8 + 8 + 32 + NAME
"""bytes of a shard in a manifest: three starts, size, sha256, name"""
NODE = 8
"""GPUs, and training processes, of a node"""


class DataSet(NamedTuple):
    """Images in shards of equal size."""

    samples: int
    image_bytes: float
    of_shard: int
    """images of a shard"""

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.samples // self.of_shard)

    @property
    def bytes(self) -> float:
        """Bytes of all images."""
        return self.samples * self.image_bytes

    @property
    def shard_bytes(self) -> float:
        """Bytes of a shard."""
        return self.of_shard * self.image_bytes


class Cluster(NamedTuple):
    """Training processes, one for each GPU, and the images that each takes."""

    processes: int
    images_per_s: float
    """of one process"""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return -(-self.processes // NODE)

    @property
    def of_node(self) -> int:
        """Processes of a node."""
        return min(NODE, self.processes)


class Reads(NamedTuple):
    """Rates that storage delivers while the GPUs are busy."""

    node_bytes: float
    """bytes a second to each node"""
    all_bytes: float
    """bytes a second to all nodes"""
    node_requests: float
    """images or shards a second that a node reads"""
    all_requests: float
    """images or shards a second that all nodes read"""


def manifest_bytes(data: DataSet) -> int:
    """Bytes of a manifest file."""
    row = sum(np.dtype(kind).itemsize for kind in COLUMNS.values()) + KEY
    return data.samples * row + data.shards * SHARD_ROW


def read_at_start(data: DataSet) -> int:
    """Bytes of a local manifest file that a start reads: all, or of many samples the shards'."""
    return manifest_bytes(data) if data.samples <= ROWS_CHECKED else data.shards * SHARD_ROW


def reads_of_files(data: DataSet, cluster: Cluster) -> Reads:
    """Images read where they lie in the shards, from local disks or a shared file system."""
    rate = cluster.processes * cluster.images_per_s
    own = cluster.of_node * cluster.images_per_s
    return Reads(own * data.image_bytes, rate * data.image_bytes, own, rate)


def reads_through_cache(data: DataSet, cluster: Cluster, order: str) -> Reads:
    """Whole shards fetched from a server, once for each node that reads any of their images.

    In `global` only until a node has all shards; in `lanes` a shard may belong to two nodes.
    """
    rate = cluster.processes * cluster.images_per_s * data.image_bytes
    split = 1 + (cluster.nodes - 1) / data.shards
    all_bytes = rate * split if order == "lanes" else rate * cluster.nodes
    node, requests = all_bytes / cluster.nodes, all_bytes / data.shard_bytes
    return Reads(node, all_bytes, requests / cluster.nodes, requests)


def cache_bytes(
    data: DataSet, cluster: Cluster, order: str, window: int = 16, lanes: int = 64
) -> float:
    """Bytes of shards that `data.cache_gb` must hold on each node: two windows of its lanes."""

    class Shards(NamedTuple):
        shards: range

    settings: Any = {"order": order, "window": window, "lanes": lanes}
    config, shards = DataConfig(train=("x.tar",), **settings), Shards(range(data.shards))
    known: Any = shards
    at_once = shards_at_once(config, known, cluster.of_node / cluster.processes)
    windows = 1 if order == "global" else 2
    return min(data.shards, windows * at_once) * data.shard_bytes


def lanes_for(processes: int) -> int:
    """Recommended `data.lanes`: one for each process, and 64 at least, to have more later."""
    return max(64, processes)


def requests_at_start(shards: int, nodes: int, processes: int, how: str) -> int:
    """Metadata requests at a later start.

    `how`: `manifest` (published), `node` (one process of a node asks for each shard) or `process`
    (each does).
    """
    return {"manifest": nodes, "node": shards * nodes, "process": shards * processes}[how]


def hours(amount: float, per_second: float) -> float:
    """Hours that `amount` takes at a rate."""
    return amount / per_second / 3600


def epoch_hours(data: DataSet, cluster: Cluster) -> float:
    """Hours of an epoch on busy GPUs."""
    return hours(data.samples, cluster.processes * cluster.images_per_s)
