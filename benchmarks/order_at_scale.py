"""Order of an epoch on many ranks: every sample exactly once, and the shards that each one reads.

`python -m benchmarks.order_at_scale [--samples 1e7] [--shards 10000] [--ranks 1024]` takes the
positions of all ranks from the classes that training and `mae.ShardStream` take them from, and
their samples from the order; in each mode for the first epoch and for one far into a run.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.measured import record
from mae.base.errors import RunFailed
from mae.base.exit_status import exit_code
from mae.config.sections import DataConfig
from mae.data.batch import BatchSharding
from mae.data.order import Order
from mae.data.stream_positions import StreamPositions
from mae.data.training_data import build_order

MODES = ("global", "window", "lanes")
NODE = 8
"""ranks of a node"""
WORLDS = (8, 64, 256)
"""numbers of ranks that the shards are counted for, beside the largest"""
FAR = 799
"""last epoch of the paper's 800"""
OF_A_RANK = 4
"""samples of a rank in a global batch"""


class Uniform(NamedTuple):
    """Stands for a manifest: shards of (nearly) equal numbers of samples."""

    samples: int
    shards: int

    def dataset_counts(self) -> list[npt.NDArray[np.int64]]:
        """Samples of each shard of the one data set."""
        return [np.diff(np.arange(self.shards + 1) * self.samples // self.shards)]


class Use(NamedTuple):
    """First and last step in which each rank reads each shard in an epoch."""

    first: npt.NDArray[np.int32]
    """[ranks shards]; after all steps: never"""
    last: npt.NDArray[np.int32]
    """[ranks shards]; -1: never"""

    def of(self, processes: int) -> "Use":
        """The same of fewer processes, each with the parts of consecutive ranks."""
        shape = (processes, -1, self.first.shape[1])
        return Use(self.first.reshape(shape).min(1), self.last.reshape(shape).max(1))

    def touched(self) -> npt.NDArray[np.int64]:
        """[ranks]: number of shards that each reads in the epoch."""
        return (self.last >= 0).sum(1)

    def at_once(self) -> npt.NDArray[np.int64]:
        """[ranks]: largest number of shards between their first and their last sample."""
        most = []
        for first, last in zip(self.first, self.last, strict=True):
            read = last >= 0
            opened = np.bincount(first[read], minlength=last.max() + 2)
            closed = np.bincount(last[read] + 1, minlength=len(opened))
            most.append(int(np.cumsum(opened - closed).max()))
        return np.array(most)


def check_epoch(order: Order, counts: npt.NDArray[np.int64], ranks: int, epoch: int) -> Use:
    """Read an epoch on all ranks.  Raises RunFailed unless it is every sample exactly once."""
    size, batch = len(order), order.batch_size
    # A lane that is one sample shorter than others is ahead by one sample an epoch.
    ahead = (epoch + 1) * order.lanes
    first = max(0, epoch * size - ahead) // batch
    last = -(-((epoch + 1) * size + ahead) // batch)
    share, steps = batch // ranks, np.arange(first, last)
    ends = np.cumsum(counts)
    seen, positions_seen = np.zeros(size, np.uint8), np.zeros((last - first) * batch, bool)
    use = Use(
        np.full((ranks, len(counts)), last - first, np.int32),
        np.full((ranks, len(counts)), -1, np.int32),
    )
    for rank in range(ranks):
        trained = _positions(BatchSharding(batch, ranks, rank, 1).micro_batches(first, last))
        stream = StreamPositions(batch, rank, ranks, last * batch)
        if not np.array_equal(trained, _positions(stream.ranges(first * batch))):
            raise RunFailed(f"rank {rank}: training and ShardStream have other positions")
        positions_seen[trained - first * batch] = True
        place = order(trained)
        of_epoch = place.view == epoch
        samples, own_steps = place.sample[of_epoch], np.repeat(steps - first, share)[of_epoch]
        np.add.at(seen, samples, 1)
        shards = np.searchsorted(ends, samples, "right")
        found, at = np.unique(shards, return_index=True)
        use.first[rank, found] = own_steps[at]
        found, at = np.unique(shards[::-1], return_index=True)
        use.last[rank, found] = own_steps[::-1][at]
    if not positions_seen.all():
        raise RunFailed(f"{(~positions_seen).sum():,} positions are of no rank")
    if (seen != 1).any():
        raise RunFailed(f"{(seen != 1).sum():,} samples are not read exactly once")
    return use


def _positions(ranges: Any) -> npt.NDArray[np.int64]:
    return np.concatenate([np.asarray(one) for one in ranges])


def rows_of(mode: str, use: Use, ranks: int) -> list[dict[str, Any]]:
    """Shards of a rank and of a node, for runs of 8 ranks and more."""
    rows = []
    for processes in sorted({one for one in WORLDS if one < ranks} | {ranks}):
        rank, node = use.of(processes), use.of(processes // NODE)
        rows.append(
            {
                "mode": mode,
                "ranks": processes,
                "rank_shards": int(np.median(rank.touched())),
                "node_shards": int(np.median(node.touched())),
                "node_at_once": int(np.median(node.at_once())),
                "all_nodes_shards": int(node.touched().sum()),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.order_at_scale", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--samples", type=float, default=1e7)
    parser.add_argument("--shards", type=float, default=1e4)
    parser.add_argument("--ranks", type=int, default=1024, help="power of 2, 8 or more")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--record", action="store_true", help="write to benchmarks/measured.json")
    args = parser.parse_args(argv)
    return exit_code(lambda: _measure(args), "benchmarks")


def _measure(args: argparse.Namespace) -> None:
    uniform: Any = Uniform(int(args.samples), int(args.shards))
    (counts,) = uniform.dataset_counts()
    rows = []
    for mode in MODES:
        config = DataConfig(train=("x.tar",), order=mode, window=args.window, lanes=args.ranks)
        order = build_order(config, uniform, 0, OF_A_RANK * args.ranks)
        for epoch in (FAR, 0):
            start = time.perf_counter()
            use = check_epoch(order, counts, args.ranks, epoch)
            seconds = time.perf_counter() - start
            print(
                f"{mode}, epoch {epoch}: {len(order):,} samples in {len(counts):,} shards on "
                f"{args.ranks:,} ranks, each exactly once ({seconds:.0f} s)",
                flush=True,
            )
        for row in rows_of(mode, use, args.ranks):
            rows.append(row | {"samples": len(order), "shards": len(counts)})
            print(
                f"  {row['ranks']:5,} ranks: a rank reads {row['rank_shards']:,} shards, a node "
                f"of {NODE} {row['node_shards']:,}, at most {row['node_at_once']:,} at a time; "
                f"all nodes together {row['all_nodes_shards']:,}",
                flush=True,
            )
    if args.record:
        record("order", "python -m benchmarks.order_at_scale", rows)


if __name__ == "__main__":
    sys.exit(main())
