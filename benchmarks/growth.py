"""Rates and requests that the growth of a data set depends on, of one core.

`python -m benchmarks.growth DATA [--only images …] [--record]`; DATA: folder with cifar10 and
clothing (shards of JPEGs) and kodak (PNGs).  Rates count CPU seconds of this process, which other
work on the machine changes little; each is the median of ROUNDS.
"""

import argparse
import hashlib
import io
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.growth_requests import Row, measure_cache, measure_requests
from benchmarks.manifest import EACH, write, write_shard
from benchmarks.measured import record
from mae.base.exit_status import exit_code
from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.class_matching import with_class_names
from mae.data.index import shard_index
from mae.data.indexing import build_manifest, join
from mae.data.manifest_file import open_manifest
from mae.data.scan import scan
from mae.data.training_data import open_training_data
from mae.evaluation.comparison import count_seen
from mae.pack.listing import PackRequest
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions

ROUNDS = 3
CROPS = 50
"""crops of each PNG in a shard"""
BATCH = 16
LOAD = "load crops of 224 px"
SAMPLES = 1_000_000
"""samples of a manifest whose handling is measured"""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, its threads included: median of ROUNDS calls."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def measure_images(data: Path, folder: Path) -> Iterator[Row]:
    """Index, pack and load images of three sizes: images and MB a second."""
    photographs = [folder / "0.tar", folder / "1.tar"]
    for number, shard in enumerate(photographs):
        write_photographs(data / "kodak", shard, number)
    sets = {
        "32 × 32": sorted((data / "cifar10").glob("test-*.tar")),
        "400 × 530": sorted((data / "clothing").glob("train-*.tar"))[:8],
        "500 × 375": photographs,
    }
    for pixels, shards in sets.items():
        half = shards[: len(shards) // 2]
        manifest = join([*map(str, half)], [scan(shard) for shard in half])
        mean = float(np.asarray(manifest.size).mean())
        seconds = {
            "index": cpu_seconds(partial(_index, half)),
            "pack": _more(partial(_pack, PackOptions()), half, shards),
            "pack --resize 256": _more(partial(_pack, PackOptions(resize=256)), half, shards),
            LOAD: cpu_seconds(partial(_load, half, folder / "index")),
        }
        for work, taken in seconds.items():
            rate = len(manifest) / taken
            row = {"work": work, "pixels": pixels, "image_bytes": round(mean)}
            yield row | {"images_per_s": round(rate), "mb_per_s": round(rate * mean / 1e6, 1)}


def _more(task: Callable[[Sequence[Path]], None], half: list[Path], whole: list[Path]) -> float:
    """CPU seconds of the second half: pixels are measured on a fixed number of images."""
    return max(1e-3, cpu_seconds(partial(task, whole)) - cpu_seconds(partial(task, half)))


def write_photographs(source: Path, shard: Path, seed: int) -> None:
    """Write JPEGs of 500 × 375 px, about as large as ImageNet's: crops of each PNG."""
    draw = np.random.default_rng(seed)
    with tarfile.open(shard, "w") as tar:
        for file in sorted(source.glob("*.png")):
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            width, height = (500, 375) if image.width > image.height else (375, 500)
            for number in range(CROPS):
                left = int(draw.integers(image.width - width + 1))
                top = int(draw.integers(image.height - height + 1))
                content = io.BytesIO()
                crop = image.crop((left, top, left + width, top + height))
                crop.save(content, "JPEG", quality=97)
                member = tarfile.TarInfo(f"{file.stem}-{number}.jpg")
                member.size = content.tell()
                tar.addfile(member, io.BytesIO(content.getvalue()))


def _index(shards: Sequence[Path]) -> None:
    for shard in shards:
        scan(shard)


def _pack(options: PackOptions, shards: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        request = PackRequest(tuple(map(str, shards)))
        pack(request, Path(folder, "packed"), options, progress=lambda done, total: None)


def _load(shards: Sequence[Path], index_dir: Path) -> None:
    files = [str(shard) for shard in shards]
    settings = {"train": files, "index_dir": index_dir, "workers": 0}
    _, training = open_training_data(Config.model_validate({"data": settings}))
    config = Config.model_validate({"data": settings})
    sharding = BatchSharding(BATCH, 1, 0, 1)
    for _ in training.batches(config, sharding, (224, 224), 0, len(training.manifest) // BATCH):
        pass


def measure_rows(data: Path, folder: Path) -> Iterator[Row]:
    """Handling of a manifest's rows, of 31 bytes: rows a second, and bytes of memory."""
    del data
    shard = write_shard(folder)
    file = write(folder, shard, SAMPLES)
    manifest, few = open_manifest(str(file)), build_manifest([str(shard)])
    copies = SAMPLES // EACH
    for work, task in {
        "write a manifest from indexes in memory": lambda: write(folder, shard, SAMPLES),
        "read cached indexes": lambda: [shard_index(str(shard)) for _ in range(copies)],
        "check a manifest's rows at a start": lambda: open_manifest(str(file)),
        "check a downloaded manifest": lambda: open_manifest(str(file), is_checked=True),
        "look for held-out images in the training data": lambda: count_seen(manifest, few),
    }.items():
        yield {"work": work, "rows_per_s": round(SAMPLES / cpu_seconds(task))}
    (folder / "classes.txt").write_text("one\n")
    labelled = manifest.changed(label=np.zeros(SAMPLES, np.int32))
    tracemalloc.start()
    with_class_names(labelled, "data.train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    yield {"work": "labels of a classifier", "bytes_per_sample": round(peak / SAMPLES)}
    block = bytes(100_000_000)
    for work, digest in {"sha256": hashlib.sha256, "crc32": zlib.crc32}.items():
        rate = len(block) / cpu_seconds(partial(digest, block))
        yield {"work": work, "mb_per_s": round(rate / 1e6)}
    name = str(shard)
    for work, build in {
        "indexes joined in memory, without a manifest": lambda: join(
            [name] * copies, [shard_index(name) for _ in range(copies)]
        ),
        "list of (path, class) in Python, as of torchvision's ImageFolder": lambda: [
            (f"/data/images/{number // 1000:04d}/{number:09d}.jpg", number // 1000)
            for number in range(SAMPLES)
        ],
    }.items():
        yield {"work": work, "bytes_per_sample": round(_memory(build) / SAMPLES)}


def _memory(build: Callable[[], object]) -> int:
    """Bytes of memory that what `build` returns takes."""
    process = psutil.Process()
    before = process.memory_full_info().uss
    kept = build()
    after = process.memory_full_info().uss
    del kept
    return after - before


SECTIONS = {
    "images": measure_images,
    "rows": measure_rows,
    "requests": measure_requests,
    "cache": measure_cache,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("data", type=Path, help="folder with cifar10, clothing and kodak")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--record", action="store_true", help="write to benchmarks/measured.json")
    args = parser.parse_args(argv)
    return exit_code(lambda: _measure(args), "benchmarks")


def _measure(args: argparse.Namespace) -> None:
    for section in args.only:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for row in SECTIONS[section](args.data, Path(folder)):
                rows.append(row)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        if args.record:
            record(section, f"python -m benchmarks.growth DATA --only {section}", rows)


if __name__ == "__main__":
    sys.exit(main())
