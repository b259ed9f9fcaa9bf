"""Scan of shards for masks: place, length and checksum of the mask of each image."""

import os
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.portion import Portion
from mae.base.redaction import redacted
from mae.data.images import Images
from mae.data.scan import MASKS
from mae.data.tar_members import walk_open

NAMES = ("mask", "masks", "seg", "label", "gt")
"""first part of the extension of files that are masks, or meant to be"""


class FoundMasks(NamedTuple):
    """Masks of neighbouring images; a size of 0: no mask."""

    offset: npt.NDArray[np.int64]
    """position in the shard, in bytes"""
    size: npt.NDArray[np.uint32]
    """length in bytes"""
    crc: npt.NDArray[np.uint32]
    """crc32 of the mask's bytes"""
    others: set[str]
    """extensions of files that may be meant as masks and are not read"""


def scan_masks(images: Images, key: str, portion: Portion) -> FoundMasks:
    """Masks of all images; each process of a launch scans its portion of the shards.

    Raises UserError for more than one mask of an image, StorageError where a shard cannot be read,
    PartDone in all processes of a launch but the first; messages call the data `key`.
    """
    count = len(images.manifest.shards)
    own = portion.own(count) if portion.is_launched else range(count)
    found, error = [], None
    try:
        found = [_scan_shard(images, key, shard) for shard in own]
    except UserError as caught:
        error = caught
    portion.raise_common(error)
    parts = [part for parts in portion.gather(found) for part in parts]
    offset, size, crc = (
        np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True)
    )
    return FoundMasks(offset, size, crc, set().union(*(part.others for part in parts)))


def _scan_shard(images: Images, key: str, shard: int) -> FoundMasks:
    manifest = images.manifest
    samples = manifest.samples_of(shard)
    first, count = samples.start, len(samples)
    number = {name: i for i, name in enumerate(manifest.names_in(shard))}
    offset, others = np.zeros(count, np.int64), set[str]()
    size, crc = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
    with images.reader.open_shard(shard) as file:
        for member in walk_open(file, redacted(manifest.shards[shard])):
            # Also of a key with dots: `KEY.05.01.mask.png` belongs to `KEY.05.01.jpg`.
            name, dot, last = member.name.rpartition(".")
            name, second_dot, second = name.rpartition(".")
            extension = f"{second}{dot}{last}".lower()
            if not second_dot or extension not in MASKS or name not in number:
                if name in number and second.lower() in NAMES:
                    others.add(f".{extension}")
                continue
            i = number[name]
            if size[i]:
                raise UserError(f"{key}: {manifest.name(first + i)}: more than one mask")
            offset[i], size[i] = member.offset, member.size
            crc[i] = zlib.crc32(os.pread(file.fileno(), member.size, member.offset))
    return FoundMasks(offset, size, crc, others)
