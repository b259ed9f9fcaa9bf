"""`mae index`: manifest of shards, pixel statistics, indexes for other loaders."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.commands.options import SHARDS, add_command, cache_options

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "index", "read the index of shards and cache it", run)
    parser.add_argument("shards", nargs="+", help=SHARDS)
    parser.add_argument(
        "--index-dir", type=Path, help="folder for the indexes (default: beside the shards)"
    )
    parser.add_argument("--stats", action="store_true", help="measure mean and std of the pixels")
    parser.add_argument("--wds2idx", action="store_true", help="write .idx files for NVIDIA DALI")
    parser.add_argument("--wids", type=Path, help="index.json to write for webdataset's wids")
    cache_options(parser)


def run(args: argparse.Namespace) -> None:
    """Index the shards, print a summary, write what options name."""
    from mae.base.errors import UserError
    from mae.base.progress import progress_counter
    from mae.commands.shard_cache import open_cache, print_statistics
    from mae.data.index import webdataset_samples, write_wds2idx, write_wids
    from mae.data.manifest import build_manifest, summary
    from mae.storage.remote import is_remote

    cache = open_cache(args)
    progress = progress_counter("indexed", "shards")
    manifest = build_manifest(args.shards, "index", args.index_dir, cache, progress)
    for word, value in summary(manifest):
        print(f"{word:12} {value}")
    for line in manifest.warnings():
        print(f"{'warning':12} {line}")
    if args.stats:
        from mae.data.statistics import channels_and_bits

        channels, bits = channels_and_bits(manifest, cache)
        print_statistics(manifest, channels, bits, cache, args.index_dir)
    paths = [Path(shard) for shard in manifest.shards if not is_remote(shard)]
    if (args.wds2idx or args.wids) and len(paths) < len(manifest.shards):
        raise UserError("--wds2idx and --wids describe local shards only")
    if args.wds2idx or args.wids:
        _refuse_dots(manifest)
    if args.wds2idx:
        for path in paths:
            write_wds2idx(path, path.with_suffix(".idx"))
        print(f"{'DALI':12} {len(paths)} .idx files beside the shards")
    if args.wids:
        write_wids(paths, [len(webdataset_samples(path)) for path in paths], args.wids)
        print(f"{'wids':12} {args.wids}")


def _refuse_dots(manifest: "Manifest") -> None:
    """Raise UserError where other loaders would join images to one sample."""
    from mae.base.errors import UserError

    for keys, shard in zip(manifest.keys, manifest.shards, strict=True):
        for key in keys.split(b"\0"):
            if b"." in key.rpartition(b"/")[2]:
                name = key.decode("utf-8", "backslashreplace")
                raise UserError(
                    f"{shard}: key {name}: other loaders end a key at its first dot and join "
                    "images to one sample: mae pack gives the images new names"
                )
