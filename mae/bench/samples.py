"""The images that all pipelines are measured on, in shards of their own."""

from pathlib import Path

import numpy as np
import webdataset

from mae.base.errors import SampleError, UserError
from mae.data.images import Images
from mae.data.manifest import Manifest, build_manifest
from mae.data.scan import NO_LABEL
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache

READ_BY_ALL = ("jpg", "jpeg", "png")


def copy_samples(
    manifest: Manifest, count: int, folder: Path, shards: int, cache: ShardCache | None = None
) -> Manifest:
    """`count` images from all over the manifest, with their labels, as shards of their own.

    So every pipeline reads the same images, from memory after the first time, and webdataset has
    a shard for each of its workers.  Raises UserError where fewer than `count` can be used.
    """
    readable = [EXTENSIONS.index(extension) for extension in READ_BY_ALL]
    usable = np.flatnonzero(np.isin(manifest.kind, readable))
    even = usable[np.linspace(0, len(usable), count, endpoint=False).astype(int)]
    others = np.setdiff1d(usable, even)  # should some of these be bad
    images, found = Images(manifest, channels=3, cache=cache), []
    for sample in [*np.unique(even).tolist(), *others.tolist()]:
        try:
            images[sample]
        except SampleError:
            continue
        found.append(sample)
        if len(found) == count:
            break
    if len(found) < count:
        raise UserError(f"bench: {len(found)} JPEG and PNG images, not {count}: ask for fewer")
    folder.mkdir(parents=True)
    for shard in range(shards):
        path = folder / f"bench-{shard:06d}.tar"
        with webdataset.TarWriter(str(path), encoder=False) as tar:
            for sample in found[shard::shards]:
                extension = EXTENSIONS[manifest.kind[sample]]
                record = {
                    "__key__": f"{sample:09d}",
                    extension: bytes(images.reader.read(sample)),
                }
                if manifest.label[sample] != NO_LABEL:
                    record["cls"] = str(manifest.label[sample]).encode()
                tar.write(record)
    return build_manifest([f"{folder}/*.tar"], "bench")
