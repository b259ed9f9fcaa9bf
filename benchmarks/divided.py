"""Speed-up of commands that several processes divide among themselves, each with one thread.

`python -m benchmarks.divided [--commands index …] [--processes 1 2] [--images N] [--repeats N]
[--folder DIR]`: makes photographs, runs each command on one process, two …, in turn, and prints
medians of wall and CPU seconds.  The processes are started together, with a launcher's variables;
start and imports count.  All of them must give the same bytes.
"""

import argparse
import hashlib
import io
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = (375, 500)
SHARD = 250
"""images per shard"""
DISTINCT = 40
"""number of different photographs"""


class Case(NamedTuple):
    """A command line, in which DATA, OUT and MODEL stand for places, and its result."""

    words: str
    result: str
    """pattern of its files in OUT"""
    images: int
    """by default: about a minute on one core, beside which starts and imports are short"""


CASES = {
    "index": Case(
        "index DATA/*.tar --out OUT/m.safetensors --index-dir OUT/i --workers 1", "m.*", 500_000
    ),
    "verify": Case(
        "verify DATA/*.tar --out OUT/v.json --index-dir OUT/i --workers 0", "v.json", 40_000
    ),
    "features": Case(
        "features MODEL --num-heads 3 DATA/*.tar --out OUT/f.safetensors --index-dir OUT/i "
        "--workers 0 --device cpu",
        "f.*",
        800,
    ),
    "pack": Case(
        "pack DATA/images OUT/p --shard-size 250 --workers 0 --resize 256", "p/[!.]*", 4_000
    ),
}


class Times(NamedTuple):
    """Seconds of one run, and the digest of its result."""

    wall: float
    cpu: float
    """of all processes"""
    most: float
    """CPU seconds of the process with the most: on a loaded machine they tell more than `wall`"""
    digest: str


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each command; print a line per number of processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--images", type=int, help="number of images (default: by the command)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the data (default: a temporary folder)")
    args = parser.parse_args(argv)
    for name in args.commands:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            case = CASES[name]
            data = make_data(Path(folder), case, args.images or case.images)
            runs: dict[int, list[Times]] = {count: [] for count in args.processes}
            for _ in range(args.repeats):
                for count, times in runs.items():
                    times.append(run(case, data, count))
            report(name, runs)
    return 0


def make_data(folder: Path, case: Case, images: int) -> dict[str, Path]:
    """Write what the command reads; the place of each of its words."""
    rng = np.random.default_rng(0)
    data = folder / "data"
    data.mkdir()
    photographs = [photograph(rng) for _ in range(DISTINCT)]
    if "DATA/images" in case.words:
        (data / "images").mkdir()
        for number in range(images):
            file = data / "images" / f"{number:06d}.jpg"
            file.write_bytes(photographs[number % DISTINCT])
    else:
        write_shards(data, photographs, images)
    places = {"DATA": data, "OUT": folder / "out", "MODEL": folder / "model.safetensors"}
    if "MODEL" in case.words:
        import timm
        from safetensors.torch import save_file

        model = timm.create_model("vit_tiny_patch16_224")
        save_file(model.state_dict(), places["MODEL"])
    return places


def write_shards(folder: Path, photographs: Sequence[bytes], images: int) -> None:
    """Write one tar, and hard links to it: many shards, whose reading costs no disk."""
    first = folder / "shard-000000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(min(SHARD, images)):
            content = photographs[number % len(photographs)]
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for number in range(1, max(1, images // SHARD)):
        os.link(first, folder / f"shard-{number:06d}.tar")


def photograph(rng: np.random.Generator) -> bytes:
    """JPEG of smooth colours and some noise, 80 KB."""
    height, width = SIZE
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + rng.integers(-20, 20, (height, width, 3)), 0, 255)
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def run(case: Case, places: dict[str, Path], count: int) -> Times:
    """Run the command on `count` processes, from nothing."""
    shutil.rmtree(places["OUT"], ignore_errors=True)
    places["OUT"].mkdir()
    words = case.words
    for word, place in places.items():
        words = words.replace(word, str(place))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    cpu, start = [], time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "mae", *words.split()],
                env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            for rank in range(count)
        ]
        for process in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu.append(usage.ru_utime + usage.ru_stime)
        wall = time.perf_counter() - start
        errors.seek(0)
        text = errors.read().decode()[-1000:]
    if any(process.returncode for process in running):
        raise SystemExit(f"{words}: failed on {count} processes: {text}")
    digest = hashlib.sha256()
    for file in sorted(places["OUT"].glob(case.result)):
        digest.update(file.name.encode() + file.read_bytes())
    return Times(wall, sum(cpu), max(cpu), digest.hexdigest())


def report(name: str, runs: dict[int, list[Times]]) -> None:
    """Print medians, the speed-up over the first number of processes, and equality."""
    digests = {one.digest for times in runs.values() for one in times}
    base = None
    for count, times in runs.items():
        wall = statistics.median(one.wall for one in times)
        cpu = statistics.median(one.cpu for one in times)
        most = statistics.median(one.most for one in times)
        base = base or wall
        result = "the same result" if len(digests) == 1 else "OTHER result"
        print(
            f"{name:9} {count} processes: {wall:7.2f} s wall, {cpu:7.2f} s CPU "
            f"({most:.2f} s of one process), speed-up {base / wall:.2f}, {result}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
