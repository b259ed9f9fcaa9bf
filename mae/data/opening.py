"""Images opened by patterns of shards and folders, and read with the settings of a run."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mae.base.progress import Progress, no_progress
from mae.config.sections import Config, DataConfig
from mae.data.class_matching import in_classes_of, match_note, with_class_names
from mae.data.class_names import Names
from mae.data.images import Images, float_normalisation
from mae.data.indexing import build_manifest
from mae.data.joined_manifests import merge
from mae.data.manifest import Manifest
from mae.data.needs import check_files, with_pairs
from mae.objectives.registry import data_needs
from mae.pack.packed_folders import with_packed_folders
from mae.storage.cache import ShardCache, build_cache


def images_for(config: Config, manifest: Manifest, cache: ShardCache | None = None) -> Images:
    """Images of a manifest, read with the settings of a run."""
    data, needs = config.data, data_needs(config)
    cache = cache or build_cache(data)
    return Images(manifest, data.in_chans, data.bits, cache, needs, float_normalisation(data))


def open_images(
    patterns: Sequence[str],
    key: str,
    config: Config,
    with_second: bool = False,
    with_targets: bool = False,
    any_size: bool = False,
) -> Images:
    """Images of shards other than the training shards, read with the settings of a run.

    `key` names `patterns` in messages.  Of pairs the first images, or `with_second` both;
    single images will do, except `with_targets` where the objective learns from pairs.  With
    `any_size` images may be smaller than data.img_size where crops are not resized.  The first
    process warns on stderr of images and labels that are not read.  Raises as `build_manifest`,
    `with_pairs` and `check_files` do.
    """
    data, cache = config.data, build_cache(config.data)
    shards = with_packed_folders(patterns, key, data)
    manifest = build_manifest(shards, key, data.index_dir, cache)
    warn_of(key, manifest.warnings())
    pairs = data_needs(config).pairs
    if pairs == "targets" and not with_targets:
        pairs = "references"
    manifest = with_pairs(manifest, pairs, key, is_training=False)
    images = images_for(config, manifest if with_second else manifest.changed(second=None), cache)
    check_files(images, None if any_size else data.img_size, key)
    return images


def warn_of(key: str, lines: Sequence[str]) -> None:
    """Print warnings of the data that `key` names, on the first process, to stderr."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(f"warning: {key}: {line}", file=sys.stderr)


class LabelledImages(NamedTuple):
    """Images whose labels count the classes of other data, or of a model."""

    images: Images
    note: str
    """line on how the classes were matched; "": both have the same names"""


def open_labelled(
    patterns: Sequence[str], key: str, config: Config, names: Names, of: str
) -> LabelledImages:
    """Images as `open_images`, with the labels that the class `names` of `of` give to them.

    Raises UserError also where the classes are others (`with_class_names`, `in_classes_of`).
    """
    images = open_images(patterns, key, config)
    manifest = with_class_names(images.manifest, key)
    warn_of(key, [manifest.class_note] * bool(manifest.class_note))
    note = match_note(manifest.class_names, names, key, of)
    return LabelledImages(images.of(in_classes_of(manifest, names, key, of)), note)


def training_images(config: Config) -> Images:
    """Images of the training shards, by number.  Raises as `training_manifest` does."""
    return images_for(config, training_manifest(config.data))


def training_manifest(config: DataConfig) -> Manifest:
    """Manifest of data.train, or of the data sets of data.mixture.

    Raises UserError and StorageError as `build_manifest` does.
    """
    return merge(training_manifests(config))


def training_manifests(config: DataConfig, progress: Progress = no_progress) -> list[Manifest]:
    """Manifest of data.train, or of each data set of data.mixture.

    Raises UserError and StorageError as `build_manifest` does.
    """
    cache = build_cache(config)
    sets = {f"data.mixture.{i}": part.shards for i, part in enumerate(config.mixture)}
    sets = sets or {"data.train": config.train}
    return [
        build_manifest(
            with_packed_folders(patterns, key, config), key, config.index_dir, cache, progress
        )
        for key, patterns in sets.items()
    ]
