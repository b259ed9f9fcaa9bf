"""Shards of `mae pack`, `index` and `verify`: the cache that options describe, statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae.data.manifest import Manifest
    from mae.storage.cache import ShardCache


def open_cache(args: argparse.Namespace) -> ShardCache:
    """Cache for remote shards by `cache_options`; defaults as in section `data:`."""
    from mae.config.sections import DataConfig
    from mae.storage.cache import build_cache

    chosen = {"cache_dir": args.cache_dir, "cache_gb": args.cache_gb, "allow_pipe": args.allow_pipe}
    return build_cache(DataConfig(**{key: value for key, value in chosen.items() if value}))


def print_statistics(
    manifest: Manifest,
    channels: int,
    bits: int,
    cache: ShardCache | None = None,
    index_dir: Path | None = None,
) -> None:
    """Measure mean and standard deviation of the pixels; print them as settings of a config.

    Raises UserError where the pixels do not allow it.
    """
    from mae.config.sections import Config
    from mae.data.images import Images
    from mae.data.statistics import channel_statistics, some_samples

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
    if statistics.note:
        print(f"{'':12} {statistics.note}")
    if skipped := len(some_samples(manifest)) - statistics.images:
        print(
            f"{'':12} {skipped:,} more could not be read as {images.channels} x {images.bits} "
            "bits and are skipped: mae verify names the damaged ones"
        )
