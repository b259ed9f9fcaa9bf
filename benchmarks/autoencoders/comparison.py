"""Comparison: trains each row by its member's recipe, shrunk to the data set; prints a table.

Each run is evaluated on the test images beside its baselines.  Needs scikit-image for the classical
denoisers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.autoencoders.data_sets import DATA_SETS, DataSet, load_images
from benchmarks.autoencoders.members import Member, comparison_of, member_of
from mae.config.loading import load_config

RECIPES = Path(__file__).parents[2] / "configs" / "autoencoders"


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; prints a line per row and writes OUT as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autoencoders",
        description="Autoencoders beside their baselines, with several seeds.",
    )
    parser.add_argument("data", choices=DATA_SETS)
    parser.add_argument("--train", required=True, nargs="+", help="training shards")
    parser.add_argument("--test", required=True, nargs="+", help="test shards")
    parser.add_argument("--members", nargs="+", help="rows, such as vqvae or vqvae/plain")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kodak", type=Path, help="folder of the Kodak images, for the denoisers")
    parser.add_argument("--out", type=Path, default=Path("autoencoders.json"))
    args = parser.parse_args(argv)
    if find_spec("skimage") is None:
        parser.error("needs scikit-image: pip install scikit-image")
    data = DATA_SETS[args.data]
    names = args.members or list(data.rows)
    if unknown := [name for name in names if name not in data.rows]:
        parser.error(f"--members: no row {unknown[0]} on {args.data}; rows: {', '.join(data.rows)}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = RowTrainer(data, args.train, args.test, Path(scratch))
        for name in names:
            member = comparison_of(name)
            runs = [trainer.train(name, seed) for seed in range(args.seeds)]
            rows = [last_evaluation(run) for run in runs]
            if args.kodak and member.on_kodak:
                for run, row in zip(runs, rows, strict=True):
                    row["kodak"] = member.on_kodak(run, args.kodak)
            config = load_config(*trainer.settings(name, 0))
            baselines = member.baselines(config, partial(load_images, config, data.tested), rows[0])
            results[name] = {"runs": rows, "baselines": baselines}
            print(summary(name, member, rows, baselines), flush=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


class RowTrainer(NamedTuple):
    """Trains the runs of a comparison, each in a process of its own."""

    data: DataSet
    shards: Sequence[str]
    test: Sequence[str]
    folder: Path
    """where the runs are"""

    def train(self, name: str, seed: int) -> Path:
        """Train a run, after the one that it is based on; finished runs are not repeated."""
        run = self.run(name, seed)
        if not run.exists():
            if first := comparison_of(name).first:
                self.train(first[0], seed)
            recipe, words = self.settings(name, seed)
            done = subprocess.run(
                [sys.executable, "-m", "mae.pretrain", str(recipe), *words],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                reason = done.stderr.strip() or done.stdout[-500:]
                raise SystemExit(f"{name}, seed {seed}: {reason}")
        return run

    def run(self, name: str, seed: int) -> Path:
        """Run folder."""
        return self.folder / f"{name.replace('/', '-')}-{seed}"

    def settings(self, name: str, seed: int) -> tuple[Path, list[str]]:
        """Recipe, and overrides for one run."""
        first = comparison_of(name).first
        return RECIPES / f"{member_of(name)}.yaml", [
            *self.data.settings,
            *self.data.rows[name],
            *([f"{first[1]}={self.run(first[0], seed)}"] if first else []),
            f"data.train={json.dumps(list(self.shards))}",
            f"data.val={json.dumps(list(self.test))}",
            f"output={self.run(name, seed)}",
            f"train.seed={seed}",
            "data.workers=0",
            f"log.health_images={self.data.tested}",
            "log.health_every=1000",
            "log.panel_every=0",
            "log.every=200",
            "log.trackers=[]",
            "train.checkpoint_every=100000",
        ]


def last_evaluation(run: Path) -> dict[str, Any]:
    """Last row of health.jsonl: of the test images."""
    return json.loads((run / "health.jsonl").read_text().splitlines()[-1])


def summary(
    name: str, member: Member, rows: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]
) -> str:
    """One line: the compared figure of the runs, the baselines, further figures."""
    values = " ".join(f"{row[member.figure]:.2f}" for row in rows)
    others = ", ".join(f"{one} {value:.2f}" for one, value in baselines.items())
    more = {key: [round(row[key], 3) for row in rows if key in row] for key in member.further}
    shown = "".join(f"; {key} {found}" for key, found in more.items() if found)
    kodak = [row["kodak"] for row in rows if "kodak" in row]
    line = f"{name:12} {member.figure} {values} {member.unit} | {others}{shown}"
    return line + (f"; Kodak {kodak}" if kodak else "")
