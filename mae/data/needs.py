"""Requirements of an objective on its images, checked: pairs, lossless files, sizes."""

from contextlib import suppress
from typing import Literal

import numpy as np

from mae.base.errors import SampleError, UserError
from mae.base.printable import printable
from mae.data.columns import chunks
from mae.data.images import LOSSY, Images, require_covers
from mae.data.joined_manifests import select
from mae.data.manifest import Manifest
from mae.data.statistics import HEADERS, some_samples
from mae.decoding.decode import is_lossy, read_info
from mae.decoding.pixels import EXTENSIONS, BadImage

FIRST, SECOND = b".a", b".b"
"""ends of the keys of a pair"""

LOSSY_EXTENSIONS = ("jpg", "jpeg", "jfif", "jpe", "jif", "jfi", "pjpeg", "pjp", "avif")
"""extensions of files that are usually compressed with loss"""


def with_pairs(
    manifest: Manifest,
    pairs: Literal["none", "references", "targets"],
    key: str,
    *,
    is_training: bool,
) -> Manifest:
    """The manifest with the images KEY.a and KEY.b as one sample, as `DataNeeds.pairs` asks.

    Raises UserError, naming `key`, for an image of a pair without the other in its shard, and
    where there must be pairs and are none.
    """
    if pairs == "none":
        return manifest
    seconds = {}
    firsts = []
    number = 0
    for shard, keys in enumerate(manifest.keys):
        for name in keys.split(b"\0") if keys else ():
            if name.endswith(FIRST):
                firsts.append((shard, name[: -len(FIRST)], number))
            elif name.endswith(SECOND):
                seconds[shard, name[: -len(SECOND)]] = number
            number += 1
    wanted = {(shard, name) for shard, name, _ in firsts}
    single = sorted(wanted ^ seconds.keys())
    alone = number - len(firsts) - len(seconds)
    if single:
        shard, name = single[0]
        lacking = "b" if (shard, name) in wanted else "a"
        shown = printable(name.decode("utf-8", "backslashreplace"))
        raise UserError(
            f"{key}: {shown}.{lacking} is missing in its shard: images KEY.a and KEY.b are pairs"
        )
    if firsts and alone:
        raise UserError(f"{key}: {alone:,} images are single, the others pairs KEY.a and KEY.b")
    if not firsts:
        if pairs == "targets":
            raise UserError(
                f"{key}: no pairs: the shards must hold KEY.a.png and KEY.b.png (written by tar; "
                "mae pack numbers its images)"
            )
        return manifest
    chosen = select(manifest, np.array([number for *_, number in firsts]))
    if is_training and pairs == "references":
        return chosen
    matching = np.array([seconds[shard, name] for shard, name, _ in firsts])
    return chosen.changed(second=select(manifest, matching))


def check_files(images: Images, img_size: tuple[int, int] | None, key: str) -> None:
    """Check some files of a data set against the requirements of the objective.

    Raises UserError, naming `key` and the first file, where one is compressed with loss and must
    not be, or where all are smaller than crops of `img_size` that are not resized.
    """
    for one in filter(None, (images, images.second)):
        if one.needs.lossless:
            _refuse_lossy(one, key)
        if one.needs.native_crops and img_size:
            _refuse_small(one, img_size, key)


def _refuse_lossy(images: Images, key: str) -> None:
    manifest = images.manifest
    for sample in [*_suspects(manifest), *some_samples(manifest, HEADERS)]:
        with suppress(SampleError):
            extension = EXTENSIONS[manifest.kind[sample]]
            if is_lossy(images.reader.read(sample), extension):
                raise UserError(f"{key}: {manifest.name(sample)}: {LOSSY}")


def _suspects(manifest: Manifest) -> list[int]:
    """The first sample whose extension is one of LOSSY_EXTENSIONS, if any."""
    kinds = [EXTENSIONS.index(name) for name in LOSSY_EXTENSIONS]
    start = 0
    for part in chunks(manifest.kind):
        if len(found := np.flatnonzero(np.isin(part, kinds))):
            return [start + int(found[0])]
        start += len(part)
    return []


def _refuse_small(images: Images, img_size: tuple[int, int], key: str) -> None:
    first: SampleError | None = None
    for sample in some_samples(images.manifest, HEADERS):
        try:
            data = images.reader.read(sample)
            info = read_info(data, EXTENSIONS[images.manifest.kind[sample]])
            require_covers((info.height, info.width), img_size, images.manifest.name(sample))
            return
        except SampleError as error:
            first = first or error
        except BadImage:
            continue
    if first is not None:
        raise UserError(f"{key}: {first}")
