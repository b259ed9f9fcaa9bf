"""Memory and start of a training process on manifests of 1e5 to 1e10 samples.

`python -m benchmarks.manifest [--samples 1e5 1e7 1e8] [--folder DIR]`: writes manifest files whose
shards are all one real tar, and opens each in fresh processes, which take a batch at 90 % of an
epoch in every order.  1e8 samples take 7 GB of disk, deleted afterwards; above WHOLE the rows that
are not read are holes in the file.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.measured import record
from benchmarks.sparse_manifest import write_sparse
from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.index import shard_index
from mae.data.manifest_writer import new_manifest
from mae.data.order import Order

EACH = 10_000
"""samples per shard"""
BATCH = 256
LANES = 8
SIZE = (32, 32)
ORDERS = ("global", "window", "lanes")
STEPS = 20
WHOLE = 200_000_000
"""number of samples up to which all rows are written"""


def main(argv: list[str] | None = None) -> int:
    """Measure each size and print one line per size and order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", nargs="+", type=float, default=[1e5, 1e7, 1e8])
    parser.add_argument("--folder", type=Path, help="for the files (default: a temporary folder)")
    parser.add_argument("--record", action="store_true", help="write to benchmarks/measured.json")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--order", choices=ORDERS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.open:
        print(json.dumps(measure(args.open, args.order)), flush=True)
        sys.stdin.readline()
        return 0
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        shard = write_shard(Path(folder))
        for samples in map(int, args.samples):
            start = time.perf_counter()
            is_whole = samples <= WHOLE
            file = (write if is_whole else write_holes)(Path(folder), shard, samples)
            wrote = time.perf_counter() - start
            size = file.stat().st_size
            print(f"{samples:,} samples: {size / 1e9:.3f} GB, written in {wrote:.1f} s", flush=True)
            for order in ORDERS:
                most = larger(in_processes(file, order, 2))
                rows.append({"samples": samples, "order": order, "is_whole": is_whole, **most})
                print(f"  {order:7}", describe(most), flush=True)
            file.unlink()
    if args.record:
        numbers = " ".join(f"{samples:.0e}".replace("e+", "e") for samples in args.samples)
        record("processes", f"python -m benchmarks.manifest --samples {numbers}", rows)
    return 0


def write_shard(folder: Path, samples: int = EACH) -> Path:
    """Write a real tar of small images."""
    content = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(content, "PNG")
    data = content.getvalue()
    path = folder / "one.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            member = tarfile.TarInfo(f"{number:09d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write(folder: Path, shard: Path, samples: int) -> Path:
    """Write a manifest of that many samples, which lists `shard` again and again."""
    file, index = folder / f"{samples}.safetensors", shard_index(str(shard))
    with new_manifest(file) as writer:
        for _ in range(samples // EACH):
            writer.add(str(shard), index)
    return file


def write_holes(folder: Path, shard: Path, samples: int) -> Path:
    """Write a manifest of that many samples with the rows that `measure` reads."""
    file, shards = folder / f"{samples}.safetensors", samples // EACH
    first = step_of(samples) * BATCH
    drawn = []
    for order in ORDERS:
        settings: Any = {"mode": order, "lanes": LANES, "batch_size": BATCH}
        known = Order(Config().train.seed, [np.full(shards, EACH)], **settings)
        drawn.append(known(np.arange(first, first + STEPS * BATCH)).sample)
    write_sparse(file, shard.name, shard_index(str(shard)), shards, np.concatenate(drawn))
    return file


def step_of(samples: int) -> int:
    """Step at 90 % of an epoch."""
    return int(0.9 * samples) // BATCH


def in_processes(file: Path, order: str, count: int) -> list[dict[str, float]]:
    """Measurements of `count` processes at the same time."""
    command = [sys.executable, "-m", "benchmarks.manifest", "--open", str(file), "--order", order]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for one in running:  # both hold their memory while it is measured
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in running:
        assert one.stdin is not None
        one.stdin.write("measure\n")
        one.stdin.flush()
    lines = [one.stdout.readline() for one in running if one.stdout is not None]
    for one in running:
        one.communicate()
    return [json.loads(line) for line in lines]


def measure(file: Path, order: str) -> dict[str, float]:
    """Memory (MB) and times (s) of this process, after a batch at 90 % of an epoch."""
    from mae.data.training_data import open_training_data

    process = psutil.Process()
    before = process.memory_full_info()
    data = {"train": (str(file),), "order": order, "lanes": LANES, "workers": 0}
    config = Config.model_validate({"data": data, "train": {"batch_size": BATCH}})
    start, cpu = time.perf_counter(), time.process_time()
    _, training = open_training_data(config)
    step = step_of(len(training.manifest))
    stream = training.batches(config, BatchSharding(BATCH, 1, 0, 1), SIZE, step, step + STEPS)
    next(stream)
    first = time.perf_counter() - start
    cpu = time.process_time() - cpu
    for _ in stream:
        pass
    print("ready", flush=True)
    sys.stdin.readline()
    after = process.memory_full_info()
    return {
        "private": (after.uss - before.uss) / 1e6,
        "proportional": (after.pss - before.pss) / 1e6,
        "resident": (after.rss - before.rss) / 1e6,
        "first_batch": first,
        "cpu": cpu,
    }


def larger(results: Sequence[dict[str, float]]) -> dict[str, float]:
    """The larger one of each number of several processes."""
    return {name: round(max(one[name] for one in results), 2) for name in results[0]}


def describe(most: dict[str, float]) -> str:
    """Line of a size's and order's numbers."""
    return (
        f"private {most['private']:6.1f} MB more than after imports, proportional share "
        f"{most['proportional']:6.1f} MB, resident {most['resident']:7.1f} MB, first batch at 90 % "
        f"after {most['first_batch']:.2f} s (CPU {most['cpu']:.2f} s)"
    )


if __name__ == "__main__":
    sys.exit(main())
