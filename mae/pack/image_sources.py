"""Images to pack, in columns of numbers and bytes: small, and shared by forked workers."""

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.data.columns import Blobs, Elements
from mae.data.labels import NO_LABEL
from mae.decoding.pixels import EXTENSIONS

KINDS = {extension: kind for kind, extension in enumerate(EXTENSIONS)}


class Source(NamedTuple):
    """An image to pack."""

    reference: Any
    """identifies the image to the listing's reader"""
    extension: str
    """one of EXTENSIONS"""
    label: int | None
    """class number"""
    mask: Any = None
    """reference of the image's segmentation mask"""


class Sources(Elements[Source]):
    """Images to pack, by number."""

    def __init__(
        self,
        references: Sequence[Any],
        extensions: Iterable[str],
        labels: Iterable[int | None] | None = None,
        masks: Mapping[int, Any] | None = None,
    ) -> None:
        """Columns of `Source`; `labels` None: no image has one; `masks` by number of image."""
        self.references, self.masks = references, masks or {}
        self.kind = np.fromiter((KINDS[one] for one in extensions), np.uint8, len(references))
        self.label = np.full(len(references), NO_LABEL, np.int32)
        """[n]; NO_LABEL for None"""
        if labels is not None:
            self.label[:] = [NO_LABEL if label is None else label for label in labels]

    def __len__(self) -> int:
        return len(self.references)

    def element(self, number: int) -> Source:
        """The image of a number."""
        label, extension = int(self.label[number]), EXTENSIONS[self.kind[number]]
        return Source(
            self.references[number],
            extension,
            None if label == NO_LABEL else label,
            self.masks.get(number),
        )

    def with_labels(self, label: npt.NDArray[np.integer]) -> "Sources":
        """These images with the class numbers `label` [n]."""
        changed = copy(self)
        changed.label = label.astype(np.int32)
        return changed


class Paths(Elements[str]):
    """Paths of files, one after the other in one array of bytes."""

    def __init__(self, paths: Sequence[str]) -> None:
        content, starts = bytearray(), np.zeros(len(paths) + 1, np.int64)
        for number, path in enumerate(paths, 1):
            content += os.fsencode(path)
            starts[number] = len(content)
        self.names = Blobs(np.frombuffer(content, np.uint8), starts)

    def __len__(self) -> int:
        return len(self.names)

    def element(self, number: int) -> str:
        """The path of a number."""
        return os.fsdecode(self.names[number])
