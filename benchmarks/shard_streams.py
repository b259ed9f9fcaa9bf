"""ShardStream beside energon, webdataset and streaming: `python -m benchmarks.shard_streams`.

Rates of raw and decoded samples, memory, resuming at 90 % of an epoch, exactness after a change of
workers and ranks, and what a damaged sample does, all on the same images.  The others are imported
by `--python`, an interpreter in whose environment they are installed.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.stream_peers import INSTALL, STREAMS
from mae.base.errors import RunFailed
from mae.base.exit_status import exit_code
from mae.base.files import write_json
from mae.commands.argument_types import positive
from mae.commands.bench.tables import markdown
from mae.commands.bench.timing import machine
from mae.data.indexing import build_manifest
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader

SHARDS = 12
DECODED = 384
"""images of the folder for decoding and damage"""
DAMAGED = "000027"
"""key of the damaged one: the third of its shard"""
Results = list[dict[str, Any]]


class Implementation:
    """A running `benchmarks.stream_case`."""

    def __init__(self, name: str, python: str) -> None:
        words = [python, "-W", "ignore", "-m", "benchmarks.stream_case", name]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.name = name
        answer = self._read()
        self.missing = answer.get("missing", "")

    def _read(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RunFailed(f"{self.name}: its process ended")
        return json.loads(line)

    def ask(self, task: str, folder: Path, ranks: int = 1, **how: Any) -> Results:
        """Results of all ranks of a task; an `error` each where it failed."""
        assert self.process.stdin
        asked = {"task": task, "ranks": ranks, "how": {"folder": str(folder), **how}}
        self.process.stdin.write(f"{json.dumps(asked)}\n".encode())
        self.process.stdin.flush()
        return self._read()


def copy_images(manifest: Manifest, count: int, folder: Path) -> None:
    """Write the first `count` images to SHARDS shards in `folder`."""
    import webdataset

    folder.mkdir()
    reader = ShardReader(manifest)
    for shard in range(SHARDS):
        path = str(folder / f"part-{shard:06d}.tar")
        with webdataset.TarWriter(path, encoder=False) as tar:
            for sample in range(shard, count, SHARDS):
                tar.write({"__key__": f"{sample:06d}", "jpg": reader.read(sample)})


def damage(folder: Path) -> None:
    """Zero 200 bytes of one image in its tar and in streaming's file; dates stay."""
    shard = folder / "part-000003.tar"
    manifest = build_manifest([str(shard)])
    start = int(manifest.offset[2]) + int(manifest.size[2]) // 2
    part = ShardReader(manifest).read(2)
    files = [shard, *sorted((folder / "mds").glob("*.mds"))]
    for file in files:
        data = file.read_bytes()
        place = start if file == shard else data.find(part) + len(part) // 2
        if file == shard or part in data:
            times = file.stat()
            file.write_bytes(data[:place] + bytes(200) + data[place + 200 :])
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def seen(parts: Iterable[Results], total: int) -> str:
    """Samples of an epoch's length that were seen twice or never, or the first error."""
    found: Counter[str] = Counter()
    for results in parts:
        for one in results:
            if "error" in one:
                return str(one["error"])
            found.update(one["keys"])
    twice = sum(number > 1 for number in found.values())
    missed = total - len(found)
    return f"{twice} twice, {missed} never" if twice or missed else "exact"


def interleaved_keys(results: Results) -> list[str]:
    """Keys of several ranks, dealt out in turn, in one sequence."""
    rows = [one.get("keys", []) for one in results]
    longest = max(map(len, rows))
    return [row[place] for place in range(longest) for row in rows if place < len(row)]


def resumed(one: Implementation, folder: Path, total: int) -> dict[str, str]:
    """Exactness of an epoch that is stopped at 40 % and resumed in three ways."""
    state = str(folder / f"state-{abs(hash(one.name))}")
    rows: dict[str, str] = {}
    for name, before, after in (
        ("same", (2, 1), (2, 1)),
        ("other workers", (2, 1), (1, 1)),
        ("other ranks", (0, 1), (0, 2)),
        ("fewer ranks", (0, 2), (0, 1)),
    ):
        (workers, ranks), (workers_after, ranks_after) = before, after
        count = math.floor(0.4 * total / ranks)
        left = math.ceil((total - count * ranks) / ranks_after)
        whole = one.ask("keys", folder, ranks, workers=workers, count=math.ceil(total / ranks))
        first = one.ask("keys", folder, ranks, workers=workers, count=count, save=state)
        rest = one.ask("keys", folder, ranks_after, workers=workers_after, count=left, load=state)
        found = [*interleaved_keys(first), *interleaved_keys(rest)][:total]
        is_exact = found == interleaved_keys(whole)[:total]
        rows[name] = "exact" if is_exact else seen([first, rest], total)
        for path in Path(state).parent.glob(f"{Path(state).name}-*"):
            path.unlink()
    alone = one.ask("keys", folder, 1, workers=0, count=total)
    both = one.ask("keys", folder, 2, workers=0, count=math.ceil(total / 2))
    is_same = interleaved_keys(alone) == interleaved_keys(both)[:total]
    rows["order on 2 ranks"] = "that of 1" if is_same else "another"
    return rows


def compare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure all implementations; the result can be written as JSON."""
    manifest = build_manifest(args.shards)
    whole, small = scratch / "whole", scratch / "small"
    copy_images(manifest, len(manifest), whole)
    copy_images(manifest, DECODED, small)
    running: dict[str, Implementation] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in STREAMS:
        package = name.partition(",")[0]
        one = Implementation(name, sys.executable if package == "mae" else args.python)
        if one.missing:
            print(f"{name}: not measured, {one.missing} is missing: {INSTALL[package]}")
            continue
        running[name], rows[name] = one, {"raw": [], "decoded": [], "resume": []}
        for folder in (whole, small):
            one.ask("prepare", folder)
    for number in range(args.rounds):
        for name, one in running.items():
            rows[name]["raw"] += one.ask("rate", whole, count=len(manifest), is_decoded=False)
            if number < args.decoded_rounds:
                rows[name]["decoded"] += one.ask("rate", small, count=DECODED, is_decoded=True)
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    for name, one in running.items():
        state = str(scratch / "late")
        one.ask("keys", whole, workers=0, count=int(0.9 * len(manifest)), save=state)
        for _ in range(3):
            rows[name]["resume"] += one.ask("resume", whole, load=state)
        for path in scratch.glob("late-*"):
            path.unlink()
        if name != "mae, torchvision's crops":
            rows[name]["resumed"] = resumed(one, whole, len(manifest))
        print(name, rows[name].get("resumed"), file=sys.stderr)
    damage(small)
    for name, one in running.items():
        rows[name]["damaged"] = one.ask("damaged", small, count=2 * DECODED)
        one.process.kill()
    return {"machine": machine(), "images": len(manifest), "rows": rows}


def middle(results: Results, key: str) -> float | None:
    """Median of a number; None where all failed."""
    found = [one[key] for one in results if key in one]
    return median(found) if found else None


def tables(result: dict[str, Any]) -> list[str]:
    """Markdown tables of a comparison."""
    speed, exact = [], []
    reference = result["rows"].get("webdataset") or next(iter(result["rows"].values()))
    for name, row in result["rows"].items():
        cells = [name]
        for kind in ("raw", "decoded"):
            own, base = middle(row[kind], "rate"), middle(reference[kind], "rate")
            cells.append(f"{own:,.0f} ({own / base:.2f})" if own and base else "–")
        memory, cpu = middle(row["raw"], "memory_mb"), middle(row["resume"], "cpu_s")
        failed = next((str(one["error"]) for one in row["resume"] if "error" in one), "–")
        cells += [f"{memory:.0f} MB" if memory is not None else "–"]
        cells += [f"{cpu:.2f} s" if cpu is not None else failed]
        speed.append(cells)
        (outcome,) = row["damaged"]
        is_given = DAMAGED in outcome.get("keys", [])
        ending = outcome["error"] or ("given, without a word" if is_given else "replaced, named")
        exact.append([name, *row.get("resumed", dict.fromkeys(range(5), "–")).values(), ending])
    heads = ["", "raw samples/CPU s", "decoded", "memory", "resume at 90 %"]
    more = ["", "same again", "workers 2 → 1", "ranks 1 → 2", "ranks 2 → 1", "2 ranks' order"]
    return [*markdown(heads, speed), "", *markdown([*more, "damaged sample"], exact)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shard_streams",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("shards", nargs="+", help="tar files of JPEGs")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the others")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds of raw rates")
    parser.add_argument("--decoded-rounds", type=positive, default=3, help="rounds of decoded ones")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    args = parser.parse_args(argv)

    def work() -> None:
        scratch = Path(tempfile.mkdtemp(prefix="mae-streams-"))
        try:
            result = compare(args, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        print("\n".join(tables(result)))
        if args.out:
            write_json(args.out, result)

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
