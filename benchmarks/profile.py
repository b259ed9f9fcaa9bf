"""Profile of another implementation's training step: `python -m benchmarks.profile`."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.implementations import IMPLEMENTATIONS, TRANSFORMERS, build_step
from mae.base.device import choose_device
from mae.base.exit_status import exit_code
from mae.commands.bench.cases import case_of
from mae.commands.bench.command import encoder_options
from mae.commands.bench.profile import bench_profile, profile_table
from mae.commands.bench.tables import write_result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, default=TRANSFORMERS)
    encoder_options(parser)
    args = parser.parse_args(argv)

    def work() -> None:
        case = case_of(args)._replace(implementation=args.implementation)
        result = bench_profile(case, device=choose_device(args.device), build=build_step)
        write_result(args.out, result, profile_table(result))

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
