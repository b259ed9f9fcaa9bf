"""Images of detectors: of shards, folders or files, each with its reference where there are any."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.anomaly.companions import PAIRS, REFERENCE, companions, is_companion
from mae.base.errors import SampleError, UserError
from mae.base.progress import Progress, no_progress
from mae.data.class_matching import with_class_names
from mae.data.facts import data_facts
from mae.data.file_manifest import FileClasses, file_manifest, normal_and_others
from mae.data.image_files import are_image_files, image_files
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.statistics import HEADERS
from mae.data.transform import View, apply_view
from mae.storage.cache import ShardCache

MATCHED = "matched"
"""recorded in a detector whose references have the keys of their images"""


class Reading(NamedTuple):
    """Settings that images are read with."""

    channels: int
    bits: int
    index_dir: Path | None = None
    cache: ShardCache | None = None
    progress: Progress = no_progress
    with_classes: bool = False
    """labels matter: class names beside shards are read"""
    normal: Sequence[str] = ()
    """names of folders of normal images (default: NORMAL_NAMES)"""


class PairedImages(Images):
    """Images with their references, by number, stacked along the channels."""

    def __init__(self, images: Images, references: Images, matching: npt.NDArray[np.int64]) -> None:
        """`matching`: number of the reference of each image."""
        super().__init__(images.manifest, images.channels, images.bits, images.reader.cache)
        self.references, self.matching = references, matching

    def __getitem__(self, sample: int) -> Tensor:
        """[2c h w]: the image, then its reference, resized to the image where sizes differ.

        Raises as `Images`.
        """
        image = super().__getitem__(sample)
        number = int(self.matching[sample])
        try:
            reference = self.references[number]
        except SampleError as error:
            name = self.manifest.name(sample)
            raise SampleError(f"{name}: its reference is bad: {error}") from None
        size = image.shape[-2], image.shape[-1]
        whole = View(0, 0, reference.shape[-2], reference.shape[-1], False)
        return torch.cat([image, apply_view(reference, whole, size)])


def open_inputs(
    sources: Sequence[str], key: str, reading: Reading, references: Sequence[str] = ()
) -> Images:
    """Images of shards, or of folders and image files; with `references` a `PairedImages`.

    `references`: PAIRS for companions `KEY.ref.png` beside the images, one image file for all, or
    shards, folders or files with an image of the same key (for files the name without extension)
    for each.  Messages call the sources `key`.  Raises UserError as `build_manifest` and
    `image_files`, and where an image has no reference; StorageError for unreadable shards.
    """
    images = _images(_manifest(sources, key, reading), reading)
    if not references:
        return images
    if list(references) == [PAIRS]:
        found = companions(images, REFERENCE, key)
        return PairedImages(images, _images(found, reading), np.arange(len(found)))
    known = _manifest(references, "--reference", reading)
    if is_single(references):
        return PairedImages(images, _images(known, reading), np.zeros(len(images.manifest), int))
    return PairedImages(images, _images(known, reading), _matching(images.manifest, known, key))


def usual_kind(sources: Sequence[str], key: str, reading: Reading) -> tuple[int, int]:
    """Channels and bits to read images with: those of most of some of them.

    Raises UserError as `open_inputs`, and where no header is usable.
    """
    if are_image_files(sources):
        files = [file for file in image_files(sources) if not is_companion(file.path)]
        if not files:
            raise UserError(f"{key}: no images in {sources[0]}")
        some = files[:: -(-len(files) // HEADERS)]
        facts = data_facts(file_manifest(some, classes=_unlabelled))
    else:
        manifest = build_manifest(sources, key, reading.index_dir, reading.cache, reading.progress)
        facts = data_facts(manifest, reading.cache)
    return facts.channels, facts.bits


def is_single(references: Sequence[str]) -> bool:
    """True where these are one image file, the reference of all images."""
    return len(references) == 1 and are_image_files(references) and Path(references[0]).is_file()


def recorded_references(references: Sequence[str]) -> str | None:
    """Record of references in a detector: PAIRS, MATCHED, or the name of its copy of a single one.

    None: there are none.
    """
    if not references or list(references) == [PAIRS]:
        return PAIRS if references else None
    return f"reference{Path(references[0]).suffix}" if is_single(references) else MATCHED


def identity(images: Images) -> str:
    """Identity of images and, where there are any, their references."""
    own = f"{images.manifest.fingerprint} {images.channels} {images.bits}"
    if not isinstance(images, PairedImages):
        return own
    matching = hashlib.sha256(images.matching.astype("<i8").tobytes()).hexdigest()
    return f"{own} {images.references.manifest.fingerprint} {matching}"


def keys_of(manifest: Manifest) -> list[str]:
    """Keys of all samples; of image files their names without the extension."""
    found = []
    for shard, keys in zip(manifest.shards, manifest.keys, strict=True):
        names = keys.decode("utf-8", "surrogateescape").split("\0")
        is_file = len(names) == 1 and str(shard).endswith(names[0])
        found += [str(Path(name).with_suffix("")) if is_file else name for name in names]
    return found


def _manifest(sources: Sequence[str], key: str, reading: Reading) -> Manifest:
    if are_image_files(sources):
        files = [file for file in image_files(sources) if not is_companion(file.path)]
        if not files:
            raise UserError(f"{key}: no images in {sources[0]}")
        classes = partial(normal_and_others, chosen=reading.normal)
        return file_manifest(files, reading.progress, classes)
    found = build_manifest(sources, key, reading.index_dir, reading.cache, reading.progress)
    return with_class_names(found, key) if reading.with_classes else found


def _unlabelled(names: Sequence[str]) -> FileClasses:
    return FileClasses([NO_LABEL] * len(names))


def _images(manifest: Manifest, reading: Reading) -> Images:
    return Images(manifest, reading.channels, reading.bits, reading.cache)


def _matching(manifest: Manifest, known: Manifest, key: str) -> npt.NDArray[np.int64]:
    """Number of the reference of each image, by its key."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(keys_of(known)):
        if name in numbers:
            raise UserError(f"--reference: two references have the key {known.key(number)}")
        numbers[name] = number
    matching = np.array([numbers.get(name, -1) for name in keys_of(manifest)], np.int64)
    missing = np.flatnonzero(matching < 0)
    if len(missing):
        raise UserError(
            f"{key}: {len(missing):,} of {len(matching):,} images have no reference of the same "
            f"key, first {manifest.name(int(missing[0]))}"
        )
    return matching
