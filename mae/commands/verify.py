"""`mae verify`: checksums and decoding of every image."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import usable_cores
from mae.commands.options import SHARDS, add_command, cache_options, natural


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "verify", "decode every image and name the bad ones", run)
    parser.add_argument("shards", nargs="+", help=SHARDS)
    parser.add_argument(
        "--index-dir", type=Path, help="folder for the indexes (default: beside the shards)"
    )
    parser.add_argument("--workers", type=natural, default=usable_cores(), help="processes")
    cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Verify the shards; raises RunFailed (exit code 1) where a shard or an image is bad."""
    from mae.base.errors import RunFailed
    from mae.commands.shard_cache import open_cache
    from mae.data.verify import describe_verification, verify_shards

    cache = open_cache(args)
    verified = verify_shards(args.shards, "verify", args.workers, args.index_dir, cache)
    *bad, total = describe_verification(verified)
    print("\n".join(bad))
    if verified.bad:
        raise RunFailed(total)
    print(total)
