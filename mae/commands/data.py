"""The commands around data: `mae pack`, `mae index`, `mae verify`."""

import argparse
import sys
from pathlib import Path

from mae.base.errors import RunFailed, UserError
from mae.base.progress import progress_counter
from mae.config.sections import Config, DataConfig
from mae.data.index import write_wds2idx, write_wids
from mae.data.manifest import Manifest, build_manifest, summary
from mae.data.verify import describe_verified, verify_shards
from mae.pack.listing import PackRequest
from mae.pack.pack import pack as pack_images
from mae.pack.plan import PackOptions
from mae.pack.report import summary_lines
from mae.storage.cache import ShardCache, build_cache
from mae.storage.files import is_remote


def pack(args: argparse.Namespace) -> None:
    """`mae pack`."""
    request = PackRequest(
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
    packed = pack_images(request, args.out, options, workers=args.workers, log=_say)
    print("\n".join(summary_lines(packed)))
    for split in packed.splits:
        pattern = f"{args.out}/{split}-*.tar"
        manifest = build_manifest([pattern], split)  # cached beside the shards
        if split == "train":
            try:
                _print_statistics(manifest, *packed.usual)
            except UserError as error:  # what is packed is packed, whatever its pixels are
                print(f"{'pixels':12} mean and std were not measured: {error}")
        print(f"  {pattern}")


def index(args: argparse.Namespace) -> None:
    """`mae index`."""
    cache = _cache(args)
    progress = progress_counter("indexed", "shards")
    manifest = build_manifest(args.shards, "index", args.index_dir, cache, progress)
    for word, value in summary(manifest):
        print(f"{word:12} {value}")
    if args.stats:
        from mae.data.statistics import channels_and_bits

        kind = channels_and_bits(manifest, cache)
        _print_statistics(manifest, *kind, cache, args.index_dir)
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


def _print_statistics(
    manifest: Manifest,
    channels: int,
    bits: int,
    cache: ShardCache | None = None,
    index_dir: Path | None = None,
) -> None:
    """Measure mean and std; UserError where the pixels do not allow it."""
    from mae.data.images import Images  # torch, where pixels are needed
    from mae.data.statistics import channel_statistics

    images = Images(manifest, channels, bits, cache)
    statistics = channel_statistics(images, index_dir)
    mean, std = (", ".join(f"{v:.4f}" for v in vs) for vs in (statistics.mean, statistics.std))
    print(f"{'pixels':12} {images.channels} x {images.bits} bits; of {statistics.images:,} images:")
    defaults = Config()
    settings = f"data.mean=[{mean}] data.std=[{std}]"
    if images.channels != defaults.data.in_chans:
        settings = f"data.in_chans={images.channels} {settings}"
    if images.bits != defaults.data.bits:
        settings = f"data.bits={images.bits} {settings}"
    print(f"{'':12} {settings}")


def _cache(args: argparse.Namespace) -> ShardCache:
    chosen = {"cache_dir": args.cache_dir, "cache_gb": args.cache_gb, "allow_pipe": args.allow_pipe}
    return build_cache(DataConfig(**{key: value for key, value in chosen.items() if value}))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
