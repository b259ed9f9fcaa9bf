"""`mae index`: manifest of shards, pixel statistics, indexes for other loaders."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.commands.argument_types import positive
from mae.commands.options import TARS, add_command, cache_options, portion_of, portion_options

if TYPE_CHECKING:
    from mae.data.manifest import Manifest


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "index", "read the index of shards and cache it", run)
    parser.add_argument("shards", nargs="+", help=TARS)
    parser.add_argument(
        "--index-dir", type=Path, help="folder for the indexes (default: beside the shards)"
    )
    parser.add_argument("--stats", action="store_true", help="measure mean and std of the pixels")
    parser.add_argument("--wds2idx", action="store_true", help="write .idx files for NVIDIA DALI")
    parser.add_argument(
        "--out",
        type=Path,
        help="manifest to write, a file for data.train= that stands for all these shards: put it "
        "beside them, on a server too; then a start looks at no shard, and processes share memory",
    )
    parser.add_argument("--wids", type=Path, help="index.json to write for webdataset's wids")
    parser.add_argument(
        "--workers",
        type=positive,
        help="shards that a process reads at a time (default: one for each core and at least 16, "
        "divided among the processes of the machine)",
    )
    cache_options(parser)
    portion_options(parser)


def run(args: argparse.Namespace) -> None:
    """Index the shards, print a summary, write what options name.

    Several processes divide the indexing; the first one does the rest.
    """
    from mae.base.progress import ProgressLine
    from mae.commands.shard_cache import open_cache
    from mae.data.indexing import index_shards, write_index
    from mae.data.manifest import summary

    portion, cache = portion_of(args), open_cache(args)
    divided = {"portion": portion, "threads": args.workers, "log": portion.log}
    common = (args.index_dir, cache, ProgressLine("indexing", "shards", portion.log))
    if args.out:
        manifest = write_index(args.shards, args.out, "index", *common, **divided)
    else:
        manifest = index_shards(args.shards, "index", *common, **divided)
    for word, value in summary(manifest):
        print(f"{word:12} {value}")
    for line in manifest.warnings():
        print(f"{'warning':12} {line}")
    if args.out:
        print(f"{'manifest':12} {args.out} ({args.out.stat().st_size / 1e6:,.1f} MB)")
    if args.stats:
        from mae.commands.shard_cache import print_statistics
        from mae.data.statistics import channels_and_bits

        channels, bits = channels_and_bits(manifest, cache)
        print_statistics(manifest, channels, bits, cache, args.index_dir)
    if args.wds2idx or args.wids:
        _write_other_formats(args, manifest)


def _write_other_formats(args: argparse.Namespace, manifest: "Manifest") -> None:
    from mae.base.errors import UserError
    from mae.data.index_formats import webdataset_samples, write_wds2idx, write_wids
    from mae.storage.remote import is_remote

    paths = [Path(shard) for shard in manifest.shards if not is_remote(shard)]
    if len(paths) < len(manifest.shards):
        raise UserError("--wds2idx and --wids describe local shards only")
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
