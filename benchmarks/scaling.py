"""Page of scaling with data and GPUs: `python -m benchmarks.scaling > docs/SCALING.md`.

`python -m benchmarks.scaling STEP.json` uses measured step times, from a result of `mae bench
step`, instead of derived ones.  `--images 3e8 --gpus 64` prints what so many images need there.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.data_needs import Cluster, DataSet
from benchmarks.scaling_communication import DERIVED, MODELS, best_rates, communication_lines
from benchmarks.scaling_data import data_lines, needs_lines
from benchmarks.scaling_values import IMAGE_BYTES, OF_SHARD
from mae.base.errors import UserError
from mae.base.exit_status import exit_code
from mae.commands.argument_types import amount, positive

SOURCE = "derived, not measured: the roof of a compiled step on an H200"


def page(rates: Mapping[str, float], source: str) -> str:
    """Markdown page for `rates`, images/s of one GPU; `source`: their origin, for the page."""
    parts = (HEAD.splitlines(), data_lines(rates, source), communication_lines(rates, source))
    return "\n".join(line for part in parts for line in part)


HEAD = """\
# Scaling

How much data a run can have, on how many GPUs, and what that asks of storage, disks, memory and
network. Made by `python -m benchmarks.scaling`. Each table says how its numbers came about:
**measured** (`benchmarks/measured.json` has commands, machine and dates), **derived** (plain
functions of measured and assumed numbers, in `benchmarks/data_needs.py` and
`benchmarks/communication.py`) or **assumed**.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("step", nargs="?", type=Path, help="result of mae bench step --out")
    parser.add_argument("--images", type=amount, help="print what so many images need, as 3e8")
    for option, kind, default, help in (
        ("--gpus", positive, 8, "number of GPUs"),
        ("--image-kb", amount, IMAGE_BYTES / 1e3, "kilobytes of an image"),
        ("--shard-images", positive, OF_SHARD, "images of a shard"),
    ):
        help = f"with --images: {help} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=default, help=help)
    args = parser.parse_args(argv)
    return exit_code(lambda: _print(args), "benchmarks")


def _print(args: argparse.Namespace) -> None:
    rates, source = DERIVED, SOURCE
    if args.step:
        try:
            result = json.loads(args.step.read_text())
            device = result["machine"]["gpu"] or result["machine"]["cpu"]
            rates, source = best_rates(result), f"measured: `mae bench step` on {device}"
        except (OSError, ValueError, LookupError):
            rates = {}
        if not rates:
            raise UserError(
                f"{args.step}: expected a result of mae bench step --out with {', '.join(MODELS)}"
            )
    if args.images:
        data = DataSet(max(1, int(args.images)), args.image_kb * 1e3, args.shard_images)
        clusters = {name: Cluster(args.gpus, rate) for name, rate in rates.items()}
        print("\n".join(needs_lines(data, clusters)))
    else:
        print(page(rates, source))


if __name__ == "__main__":
    sys.exit(main())
