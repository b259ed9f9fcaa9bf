"""Masks of defects beside images, in shards or as files: any value but 0 is a defect."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mae.anomaly.companions import is_image_file
from mae.anomaly.tiles import Size
from mae.base.errors import SampleError
from mae.base.portion import ALONE, Portion
from mae.data.images import Images
from mae.data.normal_classes import CLASS_0, NormalClasses
from mae.data.required_labels import require_labels
from mae.decoding.mask_files import StoredMask, read_mask
from mae.decoding.pixels import BadImage
from mae.evaluation.segmentation_masks import OPTIONAL, Masks

Mask = npt.NDArray[np.bool_]


class FileMasks:
    """Masks `NAME.mask.png` beside image files, by the numbers of these."""

    def __init__(self, images: Images) -> None:
        self.manifest = images.manifest
        beside = [Path(shard).with_suffix(".mask.png") for shard in images.manifest.shards]
        self.paths = [path if path.is_file() else None for path in beside]
        self.missing = np.flatnonzero([path is None for path in self.paths])

    def sha256(self) -> str:
        """Checksum of all masks."""
        digest = hashlib.sha256()
        for number, path in enumerate(self.paths):
            if path is not None:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{number} {content}".encode())
        return digest.hexdigest()

    def __getitem__(self, sample: int) -> StoredMask | None:
        """Mask of a sample, None where there is none; SampleError, naming it, for a bad one."""
        path = self.paths[sample]
        if path is None:
            return None
        try:
            return read_mask(path.read_bytes())
        except (BadImage, OSError) as error:
            raise SampleError(f"{self.manifest.name(sample)}: the mask {error}") from None


def find_masks(
    images: Images, key: str, portion: Portion = ALONE, normal: NormalClasses = CLASS_0
) -> "DefectMasks | None":
    """Masks of the defects of labelled images; None where there are none.

    `normal`: classes without defects.  Raises as `Masks`.
    """
    anomalous = ~normal.of(require_labels(images.manifest, key))
    if any(is_image_file(shard) for shard in images.manifest.shards):
        masks = DefectMasks(FileMasks(images), anomalous)
    else:
        masks = DefectMasks(Masks(images, key, unmasked=OPTIONAL, portion=portion), anomalous)
    return masks if masks.any else None


class DefectMasks:
    """Masks of the defects of labelled images."""

    def __init__(self, stored: Masks | FileMasks, anomalous: Mask) -> None:
        """`anomalous` [n]: whether each image of the manifest is."""
        self.stored, self.anomalous = stored, anomalous
        self.missing = int(anomalous[stored.missing].sum())
        """anomalous images without a mask"""
        self.any = self.missing < int(anomalous.sum())
        """some anomalous image has a mask"""

    @property
    def sha256(self) -> str:
        """Checksum of all masks."""
        return self.stored.sha256()

    def of(self, sample: int, size: Size) -> Mask | None:
        """Defects of an image of `size`, [h w]; None for an anomalous image without a mask.

        Raises SampleError, naming it, for a mask that does not decode or is of another size.
        """
        if not self.anomalous[sample]:
            return np.zeros(size, bool)
        stored = self.stored[sample]
        if stored is None:
            return None
        if stored.values.shape != tuple(size):
            tall, wide = stored.values.shape
            raise SampleError(
                f"{self.stored.manifest.name(sample)}: the mask has {wide} x {tall} pixels, the "
                f"image {size[1]} x {size[0]}"
            )
        # Lossy files have shades next to black.
        return stored.values > (stored.top // 2 if stored.lossy else 0)

    def of_batch(
        self, samples: Sequence[int], sizes: Sequence[Size], bad: list[str]
    ) -> dict[int, Mask]:
        """Defects of the images that are normal or have a usable mask; adds errors to `bad`."""
        found = {}
        for sample, size in zip(samples, sizes, strict=True):
            try:
                mask = self.of(sample, size)
            except SampleError as error:
                bad.append(str(error))
                continue
            if mask is not None:
                found[sample] = mask
        return found
