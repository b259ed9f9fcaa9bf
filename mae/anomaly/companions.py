"""Companions of images: files of the same key with a further word, such as `KEY.ref.png`."""

import os
import zlib
from pathlib import Path

import numpy as np

from mae.base.errors import UserError
from mae.base.redaction import redacted
from mae.data.file_manifest import file_manifest
from mae.data.image_files import ImageFile
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.tar_members import walk_open
from mae.decoding.pixels import EXTENSIONS

PAIRS = "pairs"
"""`--reference`: each image has a companion"""
REFERENCE, MASK = "ref", "mask"
"""word before the extension of companions: references, masks of defects"""


def is_companion(path: Path) -> bool:
    """True for `NAME.ref.png` and `NAME.mask.png`, which are no images of their own."""
    return path.stem.rpartition(".")[2].lower() in (REFERENCE, MASK)


def companions(images: Images, word: str, key: str) -> Manifest:
    """Manifest of the companion `KEY.WORD.EXTENSION` of each image, in the order of the images.

    Raises UserError, calling the images `key`, where one has none or several, StorageError where a
    shard cannot be read.
    """
    manifest = images.manifest
    if all(map(is_image_file, manifest.shards)):
        return _beside_files(manifest, word, key)
    count = len(manifest)
    offset, size = np.zeros(count, np.int64), np.zeros(count, np.uint32)
    crc, kind = np.zeros(count, np.uint32), np.zeros(count, np.uint8)
    for shard, location in enumerate(manifest.shards):
        numbers = dict(zip(manifest.names_in(shard), manifest.samples_of(shard), strict=True))
        with images.reader.open_shard(shard) as file:
            for member in walk_open(file, redacted(location)):
                name, _, extension = member.name.rpartition(".")
                name, dot, second = name.rpartition(".")
                if not dot or second.lower() != word or extension.lower() not in EXTENSIONS:
                    continue
                if (number := numbers.get(name)) is None:
                    continue
                if size[number]:
                    raise UserError(f"{key}: {manifest.name(number)}: more than one .{word}. image")
                offset[number], size[number] = member.offset, member.size
                kind[number] = EXTENSIONS.index(extension.lower())
                crc[number] = zlib.crc32(os.pread(file.fileno(), member.size, member.offset))
    missing = np.flatnonzero(size == 0)
    if len(missing):
        raise _missing(manifest, int(missing[0]), len(missing), word, key)
    return manifest.changed(offset=offset, size=size, crc=crc, kind=kind)


def is_image_file(shard: str) -> bool:
    """True for a manifest's shard that is an image file itself."""
    return Path(shard).suffix[1:].lower() in EXTENSIONS


def _beside_files(manifest: Manifest, word: str, key: str) -> Manifest:
    found = []
    for number, shard in enumerate(manifest.shards):
        path = Path(shard)
        known = [
            beside
            for extension in EXTENSIONS
            if (beside := path.with_name(f"{path.stem}.{word}.{extension}")).is_file()
        ]
        if not known:
            raise _missing(manifest, number, 1, word, key)
        found.append(ImageFile(known[0], known[0].name))
    return file_manifest(found)


def _missing(manifest: Manifest, number: int, count: int, word: str, key: str) -> UserError:
    more = f", as {count - 1:,} others" if count > 1 else ""
    return UserError(
        f"{key}: {manifest.name(number)}: no image KEY.{word}.png beside it{more}: the images "
        "need one each"
    )
