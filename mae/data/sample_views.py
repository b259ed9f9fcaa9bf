"""Views of whole samples, decoded or as files, and views changed by a user's transform."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.data.batch import Batch
from mae.data.transform import seeded
from mae.data.views import TrainingViews

Transform = Callable[[Any], Any]
"""function of a crop or image, uint8 or uint16 [c h w], or of the bytes of a file"""


class SampleViews(TrainingViews[list[Any]]):
    """Whole images at their own sizes, or the files of samples."""

    decode = True
    """False: the bytes of the files, not decoded"""

    def batch(self, index: range) -> Batch[list[Any]]:
        """List of images, uint8 or uint16 [c h w], or of bytes; raises UserError."""
        place = self._place(index)
        read: Callable[[int], Any] = self.images.__getitem__
        usable = list(self._usable(place, read if self.decode else self.images.reader.read))
        return self._joined(
            place,
            samples=[one.sample for one in usable],
            bad=[bad for one in usable for bad in one.bad],
            images=[one.image for one in usable],
        )


class TransformedViews(Dataset[Batch[Any] | UserError]):
    """Views with a transform of each image, whose random numbers are functions of the sample.

    Python's, NumPy's and torch's global generators are seeded by (seed, view, sample) before each
    call, and restored afterwards: so a transform that draws from them gives the same on any number
    of processes and workers.
    """

    def __init__(
        self, views: TrainingViews[Any], transform: Transform, collate: Callable[[list[Any]], Any]
    ) -> None:
        self.views, self.transform, self.collate = views, transform, collate

    def __getitem__(self, index: range) -> Batch[Any] | UserError:
        """The batch of `collate`d results, or the UserError as a value."""
        batch = self.views[index]
        if isinstance(batch, UserError):
            return batch
        order = self.views.order
        place = order(np.asarray(index))
        keys = fold(order.seed, Stream.AUGMENT, place.view, place.sample).tolist()
        rows = zip(batch.images, keys, batch.samples.tolist(), strict=True)
        results = [self._transformed(*row) for row in rows]
        return batch._replace(images=self.collate(results))

    def _transformed(self, image: Any, key: int, sample: int) -> Any:
        try:
            with seeded(key):
                # Views of one image share it: a transform may change its input in place.
                return self.transform(image.clone() if isinstance(image, Tensor) else image)
        except Exception as error:
            error.add_note(f"in the transform of {self.views.images.manifest.name(sample)}")
            raise
