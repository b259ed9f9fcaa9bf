"""Manifest of image files, each of which counts as a shard of one sample.

So what reads shards reads folders of images, too: evaluation views, the cache of features, work
divided among processes.  Every file is read once for its checksum.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae.base.device import local_processes, usable_cores
from mae.base.errors import StorageError, UserError
from mae.base.printable import printable
from mae.base.progress import Progress, no_progress
from mae.config.sections import Config
from mae.data.image_files import ImageFile, are_image_files, image_files
from mae.data.images import Images
from mae.data.indexing import join
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.needs import check_files
from mae.data.normal_classes import NORMAL_NAMES
from mae.data.opening import images_for, open_labelled
from mae.data.shard_index import ShardIndex
from mae.decoding.pixels import EXTENSIONS
from mae.storage.background import BackgroundThreads

LARGEST = 2**32
"""size in bytes that an image file must be below"""


class FileClasses(NamedTuple):
    """Classes of image files."""

    labels: list[int]
    """of each file; NO_LABEL: none"""
    names: tuple[str, ...] = ()
    """of the classes, by number"""


def open_files_or_shards(
    sources: Sequence[str], key: str, config: Config, progress: Progress = no_progress
) -> Images:
    """Images, with labels and class names where there are any, of shards or of image files.

    `sources` are image files and folders of them (`file_manifest`), or shards (`open_labelled`).
    `key` names them in messages.  Raises UserError as these two and `check_files` do.
    """
    if not are_image_files(sources):
        return open_labelled(sources, key, config, (), "").images
    files = image_files(sources, distinct_names=False)
    images = images_for(config, file_manifest(files, progress))
    check_files(images, config.data.img_size, key)
    return images


def file_manifest(
    files: Sequence[ImageFile],
    progress: Progress = no_progress,
    classes: Callable[[Sequence[str]], FileClasses] | None = None,
) -> Manifest:
    """Manifest of image files: the shard is the path, the key the name below the folder given.

    `classes`: names → classes (default: `folder_classes`).  `progress` is called with numbers of
    files.  Raises StorageError where a file cannot be read, UserError for one of 4 GB or more, or
    given twice.
    """
    known: set[str] = set()
    for path, _ in files:
        if (real := os.path.realpath(path)) in known:
            raise UserError(f"{printable(str(path))}: image file named twice")
        known.add(real)
    labels, names = (classes or folder_classes)([name for _, name in files])
    threads = min(len(files), -(-usable_cores() // local_processes()))
    indexes = []
    with BackgroundThreads(threads, "files") as background:
        for index in background.in_order(_file_index, zip(files, labels, strict=True), 4 * threads):
            indexes.append(index)
            progress(len(indexes), len(files))
    return join([str(path) for path, _ in files], indexes).changed(class_names=names)


def folder_classes(names: Sequence[str]) -> FileClasses:
    """Top-level folders as classes, in sorted order, as for `mae pack`.

    None where a file lies in no folder, or all in one.
    """
    tops = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops)) if all(tops) and len(set(tops)) > 1 else []
    number_of = {name: number for number, name in enumerate(classes)}
    labels = [number_of.get(top, NO_LABEL) for top in tops]
    return FileClasses(labels, tuple(map(printable, classes)))


def normal_and_others(names: Sequence[str], chosen: Sequence[str] = ()) -> FileClasses:
    """Two classes: files in a folder of one of the `chosen` names, and those in other folders.

    `chosen` (default: NORMAL_NAMES): names of folders of normal images.  No classes where there
    is no such folder.
    """
    wanted = {one.lower() for one in chosen or NORMAL_NAMES}
    folders = [{part.lower() for part in Path(name).parts[:-1]} for name in names]
    normal = [not found.isdisjoint(wanted) for found in folders]
    if not any(normal):
        return FileClasses([NO_LABEL] * len(names))
    labels = [0 if is_normal else 1 for is_normal in normal]
    return FileClasses(labels, (chosen[0] if chosen else "normal", "anomalous"))


def _file_index(labelled: tuple[ImageFile, int]) -> ShardIndex:
    (path, name), label = labelled
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{printable(str(path))}: cannot be read: {error.strerror}") from None
    if len(content) >= LARGEST:
        raise UserError(f"{printable(str(path))}: image files of 4 GB or more are not read")
    return ShardIndex(
        keys=name.encode("utf-8", "surrogateescape"),
        offset=np.zeros(1, np.int64),
        size=np.array([len(content)], np.uint32),
        crc=np.array([zlib.crc32(content)], np.uint32),
        label=np.array([label], np.int32),
        kind=np.array([EXTENSIONS.index(path.suffix[1:].lower())], np.uint8),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
