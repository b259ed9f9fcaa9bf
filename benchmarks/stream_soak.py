"""ShardStream under kill −9 with changing ranks and workers: `python -m benchmarks.stream_soak`.

Loops of a foreign kind read a stream to its end.  Again and again all their processes are killed,
and another number of them, with another number of workers, goes on from the last saved state.
What they received is then compared with an undisturbed loop: every sample and every pixel.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import RunFailed
from mae.base.exit_status import exit_code
from mae.commands.argument_types import positive
from mae.commands.bench.command import shards_options
from mae.data.batch import Batch
from mae.data.shard_stream import ShardStream

RANKS = (1, 2, 3, 4)
WORKERS = (0, 1, 2)
SAVE_EVERY = 10
"""batches"""

Rows = npt.NDArray[np.int64]
"""[n 3]: position, sample, checksum of the pixels"""


class Phase(NamedTuple):
    """Loop between two kills."""

    ranks: int
    workers: int
    first: int
    """position of the state it began with"""
    repeated: int
    """samples received again, since they came after the last saved state"""


def rows_of(stream: ShardStream, batch: Batch) -> Rows:
    """Rows of the batch that `stream` has just given."""
    first = stream.position - (stream.settings.batch_size or 1)
    positions = first + stream.settings.rank * len(batch.samples) + np.arange(len(batch.samples))
    sums = [zlib.crc32(image.numpy()) for image in batch.images]
    return np.stack([positions, batch.samples.numpy(), np.array(sums)], axis=1)


def loop(args: argparse.Namespace, workers: int) -> Iterator[Rows]:
    """Rows of each batch of this rank up to `args.samples`; goes on from the state, if any."""
    stream = ShardStream(
        args.shards,
        args.batch_size,
        img_size=args.img_size,
        order=args.order,
        window=2,
        lanes=args.batch_size // 10,
        workers=workers,
    )
    if args.folder and (state := args.folder / "state.json").exists():
        stream.load_state_dict(json.loads(state.read_text()))
    own = args.folder / f"state-{stream.settings.rank}.json" if args.folder else None
    if stream.position >= args.samples:
        return
    for number, batch in enumerate(stream, start=1):
        yield rows_of(stream, batch)
        is_last = stream.position >= args.samples
        if own and (number % SAVE_EVERY == 0 or is_last):
            part = own.with_suffix(".part")
            part.write_text(json.dumps(stream.state_dict()))
            part.replace(own)
        if is_last:
            return


def run_rank(args: argparse.Namespace) -> None:
    """Loop of one rank: rows to a file, states beside it."""
    with (args.folder / f"rows-{os.environ['RANK']}").open("ab", buffering=0) as log:
        for rows in loop(args, args.workers or 0):
            log.write(rows.tobytes())


def run_phase(args: argparse.Namespace, kill_at: int, chance: random.Random) -> tuple[Phase, Rows]:
    """Start ranks, and kill them when all have come to `kill_at`; returns what they received.

    The smallest saved state becomes the next one: what all ranks have received.
    """
    ranks, workers = chance.choice(RANKS), chance.choice(WORKERS)
    state = args.folder / "state.json"
    first = json.loads(state.read_text())["position"] if state.exists() else 0
    for left in [*args.folder.glob("rows-*"), *args.folder.glob("state-*")]:
        left.unlink()
    words = [sys.executable, "-m", "benchmarks.stream_soak", *sys.argv[1:]]
    words += ["--folder", str(args.folder), "--workers", str(workers)]
    environment = os.environ | {"WORLD_SIZE": str(ranks)}
    running = [
        subprocess.Popen(words, env=environment | {"RANK": str(rank)}) for rank in range(ranks)
    ]
    states = [args.folder / f"state-{rank}.json" for rank in range(ranks)]
    while any(one.poll() is None for one in running):
        reached = [json.loads(one.read_text())["position"] for one in states if one.exists()]
        if len(reached) == ranks and min(reached) >= kill_at:
            time.sleep(chance.random() / 2)
            for one in running:
                one.kill()
        if any(one.returncode not in (None, 0, -9) for one in running):
            raise RunFailed("soak: a loop failed")
        time.sleep(0.02)
    if all(one.exists() for one in states):
        min(states, key=lambda one: json.loads(one.read_text())["position"]).replace(state)
    files = [(args.folder / f"rows-{rank}").read_bytes() for rank in range(ranks)]
    rows = np.concatenate(
        [np.frombuffer(one[: len(one) // 24 * 24], np.int64).reshape(-1, 3) for one in files]
    )
    now = json.loads(state.read_text())["position"] if state.exists() else 0
    return Phase(ranks, workers, first, int((rows[:, 0] >= now).sum())), rows


def soak(args: argparse.Namespace) -> None:
    """Run all phases, and compare what they received with an undisturbed loop."""
    chance = random.Random(args.kills)
    alone = argparse.Namespace(**{**vars(args), "folder": None})
    expected = np.concatenate(list(loop(alone, workers=0)))[: args.samples]
    assert (expected[:, 0] == np.arange(args.samples)).all()
    found = np.full((args.samples, 2), -1)
    phases, wrong = [], 0
    while not phases or (found[:, 0] < 0).any():
        part = args.samples // (args.kills + 1)
        kill_at = (len(phases) + 1) * part if len(phases) < args.kills else 2 * args.samples
        phase, rows = run_phase(args, kill_at, chance)
        phases.append(phase)
        rows = rows[rows[:, 0] < args.samples]
        wrong += int((rows[:, 1:] != expected[rows[:, 0], 1:]).any(axis=1).sum())
        found[rows[:, 0]] = rows[:, 1:]
        print(f"{phase}, {len(rows):,} samples received, {wrong} other than undisturbed")
    repeated = sum(phase.repeated for phase in phases)
    print(
        f"{args.samples:,} samples in {len(phases)} phases, order {args.order}: "
        f"{repeated:,} received again after {len(phases) - 1} kills, {wrong} other than undisturbed"
    )
    if wrong or not (found == expected[:, 1:]).all():
        raise RunFailed("soak: not the undisturbed sequence")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stream_soak",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    shards_options(parser)
    parser.add_argument("--samples", type=positive, default=200_000, help="number of samples")
    parser.add_argument("--kills", type=positive, default=12, help="number of kills")
    parser.add_argument("--order", default="global", help="global, window or lanes")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    def work() -> None:
        if args.folder:
            run_rank(args)
            return
        with tempfile.TemporaryDirectory(prefix="mae-soak-") as folder:
            args.folder = Path(folder)
            soak(args)

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
