"""What the commands around data do, given their parsed arguments: pack, index, verify."""

import argparse
import sys
from pathlib import Path

from mae.commands.progress import progress_line
from mae.config import Config, DataConfig
from mae.data.conventions import write_wds2idx, write_wids
from mae.data.images import Images
from mae.data.manifest import build_manifest, summary
from mae.data.statistics import Statistics, channel_statistics, channels_and_bits
from mae.data.training_data import build_cache
from mae.data.verify import describe_verified, verify_shards
from mae.errors import RunFailed, UserError
from mae.packing.pack import pack as pack_images
from mae.packing.report import describe
from mae.packing.shard_writer import PackOptions
from mae.packing.sources import Wanted
from mae.remote.cache import ShardCache
from mae.remote.files import is_remote


def pack(args: argparse.Namespace) -> None:
    """`mae pack`."""
    wanted = Wanted(
        sources=tuple(args.sources),
        labels=args.labels,
        path_column=args.path_column,
        label_column=args.label_column,
        root=args.root,
        cache=_cache(args),
    )
    options = PackOptions(
        shard_size=args.shard_size,
        shard_bytes=round(args.shard_mb * 1e6) if args.shard_mb else None,
        val_fraction=args.val,
        seed=args.seed,
        resize=args.resize,
        quality=args.quality,
        drop_duplicates=args.drop_duplicates,
    )
    packed = pack_images(wanted, args.out, options, workers=args.workers, say=_say)
    print("\n".join(describe(packed)))
    for split in packed.splits:
        pattern = f"{args.out}/{split}-*.tar"
        manifest = build_manifest([pattern], split)  # cached beside the shards
        if split == "train":
            _print_if_measured(Images(manifest, *packed.usual))
        print(f"  {pattern}")


def index(args: argparse.Namespace) -> None:
    """`mae index`."""
    cache = _cache(args)
    progress = progress_line("indexed", "shards")
    manifest = build_manifest(args.shards, "index", args.index_dir, cache, progress)
    for word, value in summary(manifest):
        print(f"{word:12} {value}")
    if args.stats:
        images = Images(manifest, *channels_and_bits(manifest, cache), cache)
        _print_statistics(channel_statistics(images, args.index_dir), images)
    paths = [Path(shard) for shard in manifest.shards if not is_remote(shard)]
    if (args.wds2idx or args.wids) and len(paths) < len(manifest.shards):
        raise UserError("--wds2idx and --wids describe local shards only")
    if args.wds2idx:
        for path in paths:
            write_wds2idx(path, path.with_suffix(".idx"))
        print(f"{'DALI':12} {len(paths)} .idx files beside the shards")
    if args.wids:
        write_wids(paths, manifest.counts().tolist(), args.wids)
        print(f"{'wids':12} {args.wids}")


def verify(args: argparse.Namespace) -> None:
    """`mae verify`; RunFailed, and so exit code 1, where something is bad."""
    verified = verify_shards(args.shards, "verify", args.workers, args.index_dir, _cache(args))
    *bad, total = describe_verified(verified)
    print("\n".join(bad))
    if verified.bad:
        raise RunFailed(total)
    print(total)


def _print_if_measured(images: Images) -> None:
    """What is packed is packed, whatever its pixels are."""
    try:
        _print_statistics(channel_statistics(images), images)
    except UserError as error:
        print(f"{'pixels':12} mean and std were not measured: {error}")


def _print_statistics(statistics: Statistics, images: Images) -> None:
    mean, std = (", ".join(f"{v:.4f}" for v in vs) for vs in (statistics.mean, statistics.std))
    print(f"{'pixels':12} {images.channels} x {images.bits} bits; of {statistics.images:,} images:")
    defaults = Config()
    settings = f"data.mean=[{mean}] data.std=[{std}]"
    if images.channels != defaults.model.in_chans:
        settings = f"model.in_chans={images.channels} {settings}"
    if images.bits != defaults.data.bits:
        settings = f"data.bits={images.bits} {settings}"
    print(f"{'':12} {settings}")


def _cache(args: argparse.Namespace) -> ShardCache:
    chosen = {"cache_dir": args.cache_dir, "cache_gb": args.cache_gb, "allow_pipe": args.allow_pipe}
    return build_cache(DataConfig(**{key: value for key, value in chosen.items() if value}))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
