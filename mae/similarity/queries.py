"""Queries of a retrieval: image files, or samples of the data that is searched."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.data.file_manifest import file_manifest
from mae.data.image_files import are_image_files, image_files
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.opening import images_for
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.evaluation.feature_cache import cache_path, identity
from mae.evaluation.features import BATCH
from mae.evaluation.parts import split
from mae.similarity.features import FeatureSource, Vectors

SHOWN = 160
"""pixels of the shorter side at which images are shown, where they have as many"""


class Queries(NamedTuple):
    """Queries, encoded, and to be shown."""

    names: list[str]
    images: Tensor
    """[m c *`shown_size`]"""
    vectors: npt.NDArray[np.float32]
    """[m d]"""
    rows: npt.NDArray[np.int64] | None
    """[m] rows in what is searched, -1: not among them; None: none is"""


def find_queries(
    words: Sequence[str],
    source: FeatureSource,
    images: Images,
    among: Vectors,
    *,
    batch_size: int = BATCH,
) -> Queries:
    """Queries that `words` name: image files and folders, or keys or numbers of `images`.

    A word that is both a number and a key is a key.  Files are encoded `batch_size` at a time.
    Raises UserError for words that name nothing, unusable images, and a key that several samples
    have.
    """
    is_file = [Path(word).exists() and are_image_files([word]) for word in words]
    if all(is_file):
        return _of_files(words, source, images, among, batch_size)
    if any(is_file):
        other = words[is_file.index(False)]
        raise UserError(f"{other}: no image file as the other queries: ask for them in two calls")
    return _of_samples(words, source, images, among)


def shown_size(source: FeatureSource, images: Images, sample: int) -> tuple[int, int]:
    """Height and width to show images at: what the encoder sees, in more pixels where there are.

    A multiple of the encoder's own size, up to about SHOWN pixels; `sample` stands for all.
    """
    height, width = source.encoder.img_size
    if images.needs.native_crops:
        return height, width
    factors = -(-SHOWN // min(height, width)), min(images[sample].shape[-2:]) // min(height, width)
    factor = max(1, min(factors))
    return factor * height, factor * width


def _of_files(
    words: Sequence[str], source: FeatureSource, images: Images, among: Vectors, batch_size: int
) -> Queries:
    files = image_files(words, distinct_names=False)
    own = images_for(source.config, file_manifest(files))
    views, shown = _views(source, own), _shown_views(source, own, images, among)
    pictures, vectors = [], []
    for batch in split(range(len(files)), batch_size):
        pictures += [shown.view(number) for number in batch]
        vectors.append(_encoded(stack([views.view(number) for number in batch]), source))
    names = [file.name for file in files]
    rows = _rows_of([file.path for file in files], images.manifest, among)
    return Queries(names, stack(pictures), np.concatenate(vectors), rows)


def _rows_of(
    paths: Sequence[Path], manifest: Manifest, among: Vectors
) -> npt.NDArray[np.int64] | None:
    """Rows of `among` that are these very files, -1 for others; None where none is.

    Of files a shard is one sample, named by its path.
    """
    if len(manifest.shards) != len(manifest):
        return None
    names = {path.name for path in paths}
    samples = {
        os.path.realpath(shard): number
        for number, shard in enumerate(manifest.shards)
        if Path(shard).name in names
    }
    row_of = {sample: row for row, sample in enumerate(among.samples.tolist())}
    rows = [row_of.get(samples.get(os.path.realpath(path), -1), -1) for path in paths]
    return np.array(rows, np.int64) if max(rows) >= 0 else None


def _of_samples(
    words: Sequence[str], source: FeatureSource, images: Images, among: Vectors
) -> Queries:
    samples = _samples(words, images.manifest)
    places = np.searchsorted(among.samples, samples)
    for word, sample, place in zip(words, samples, places.tolist(), strict=True):
        if place == len(among.samples) or among.samples[place] != sample:
            raise UserError(f"{word}: this image cannot be used: it does not decode")
    views = _shown_views(source, images, images, among)
    return Queries(
        images.manifest.keys_of(samples),
        stack([views.view(sample) for sample in samples]),
        np.asarray(among.values[places], np.float32),
        places,
    )


def _views(source: FeatureSource, images: Images) -> CentredViews:
    return CentredViews(images, source.encoder.img_size, source.encoder.crop_pct)


def _shown_views(
    source: FeatureSource, own: Images, images: Images, among: Vectors
) -> CentredViews:
    size = shown_size(source, images, int(among.samples[0]))
    return CentredViews(own, size, source.encoder.crop_pct)


@torch.no_grad()
def _encoded(pictures: Tensor, source: FeatureSource) -> npt.NDArray[np.float32]:
    vectors = source.encoder.encode(pictures.to(source.device))[source.feature]
    return vectors.float().cpu().numpy()


def index_path(source: FeatureSource, images: Images) -> Path:
    """File of the approximate index of these features of `images`, beside their cache."""
    cached = cache_path(source.folder, identity(source.encoder, images), tokens=False)
    return cached.with_name(f"{cached.stem}-{source.feature}.usearch")


def _samples(words: Sequence[str], manifest: Manifest) -> list[int]:
    """Sample number of each word."""
    wanted = {word.encode("utf-8", "surrogateescape"): word for word in words}
    places: dict[str, list[int]] = {}
    for first, keys in zip(manifest.first.tolist(), manifest.keys, strict=True):
        if any(word in keys for word in wanted):
            for number, key in enumerate(keys.split(b"\0"), first):
                if key in wanted:
                    places.setdefault(wanted[key], []).append(number)
    samples = []
    for word in words:
        known = places.get(word, [])
        if len(known) > 1:
            raise UserError(
                f"{word}: {len(known):,} samples of --among have this key: use their number, of "
                f"{known[0]:,} and {known[1]:,} for example"
            )
        if not known and word.isdecimal() and int(word) < len(manifest):
            known = [int(word)]
        if not known:
            raise UserError(
                f"{word}: neither an image file, nor a key or number below {len(manifest):,} of "
                "--among"
            )
        samples.append(known[0])
    return samples
