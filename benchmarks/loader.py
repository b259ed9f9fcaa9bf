"""The loader beside torchvision's and webdataset's pipelines: `python -m benchmarks.loader`."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.pipelines import OTHERS
from mae.base.exit_status import exit_code
from mae.commands.bench import measure_loader
from mae.options.bench import loader_options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    loader_options(parser)
    args = parser.parse_args(argv)
    return exit_code(lambda: measure_loader(args, OTHERS), "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
