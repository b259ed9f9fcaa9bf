"""`mae verify`: checksums and decoding of every image."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import worker_count
from mae.base.progress import Log, ProgressLine
from mae.commands.options import (
    TARS,
    add_command,
    cache_options,
    portion_of,
    portion_options,
    workers_option,
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "verify", "decode every image and name the bad ones", run)
    parser.add_argument("shards", nargs="+", help=TARS)
    parser.add_argument(
        "--index-dir", type=Path, help="folder for the indexes (default: beside the shards)"
    )
    workers_option(parser, "processes")
    parser.add_argument("--out", type=Path, help="JSON file to write: the counts, all defects")
    cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Verify the shards; raises RunFailed (exit code 1) where a shard or an image is bad."""
    from mae.base.errors import RunFailed, UserError
    from mae.commands.shard_cache import open_cache
    from mae.data.verification import describe_verification
    from mae.data.verify import verify_shards

    if args.out and args.out.suffix != ".json":
        raise UserError(f"--out: {args.out} must end in .json")
    portion = portion_of(args)
    show = _Progress(portion.log)
    verified = verify_shards(
        args.shards,
        "verify",
        worker_count(args.workers),
        args.index_dir,
        open_cache(args),
        show.shards,
        seen=show.images,
        out=args.out,
        portion=portion,
        log=portion.log,
    )
    *bad, total = describe_verification(verified)
    print("\n".join(bad))
    if verified.bad:
        raise RunFailed(total)
    print(total)


class _Progress:
    """Progress line: shards of all processes, images that this one has decoded."""

    def __init__(self, log: Log) -> None:
        self.show = ProgressLine("verifying", "shards", log)
        self.done = self.total = self.decoded = 0

    def shards(self, done: int, total: int) -> None:
        """Show the number of shards that are done, of all."""
        self.done, self.total = done, total
        self.show(done, total, f", {self.decoded:,} images decoded")

    def images(self, count: int) -> None:
        """Show `count` more images of shards that are being decoded."""
        self.decoded += count
        if self.total:  # else another process shows the progress of all
            self.show(self.done, self.total, f", {self.decoded:,} images decoded")
