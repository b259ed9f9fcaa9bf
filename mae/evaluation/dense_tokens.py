"""Patch tokens of masked images with the classes of patches and pixels; training patches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.data.images import Images
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.mask_classes import IGNORE, MaskClasses
from mae.evaluation.segmentation_masks import MaskedViews, Masks, patch_classes


class MaskedImages(NamedTuple):
    """Images of a data set with their masks."""

    images: Images
    masks: Masks
    classes: MaskClasses
    """meaning of the masks"""
    samples: npt.NDArray[np.int64]
    """numbers of the images to use, ascending"""

    def drawn(self, most: int, seed: int) -> "MaskedImages":
        """At most so many of the images, drawn at random."""
        if len(self.samples) <= most:
            return self
        order = np.argsort(fold(seed, Stream.STATISTICS, self.samples), kind="stable")
        return self._replace(samples=np.sort(self.samples[order[:most]]))


class Dense(NamedTuple):
    """Patch tokens of a batch of images, with the classes of patches and pixels."""

    tokens: Tensor
    """float32 [b n d]"""
    patches: Tensor
    """int64 [b n] class of each patch, or IGNORE"""
    pixels: Tensor
    """int64 [b h w] class of each pixel, or IGNORE"""
    samples: list[int]
    """numbers of the images"""


class DenseBatch(NamedTuple):
    """Batch of images that was encoded."""

    dense: Dense | None
    """None: no image was usable"""
    reasons: list[str]
    """shard, key and defect of the bad ones"""


class Patches(NamedTuple):
    """Labelled patches of the training images."""

    tokens: npt.NDArray[np.float32]
    """[m d]"""
    classes: npt.NDArray[np.int64]
    """[m]"""
    images: npt.NDArray[np.int64]
    """[m] number of the image that each belongs to"""


def encode_dense(
    encoder: FrozenEncoder,
    part: MaskedImages,
    batches: Sequence[range],
    *,
    patch_size: tuple[int, int],
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[DenseBatch]:
    """Encode each of `batches`, places in `part.samples`, in order.

    UserError for tokens that are not finite.
    """
    views = MaskedViews(part.images, part.masks, part.classes, encoder.img_size, encoder.crop_pct)
    numbers = [part.samples[batch.start : batch.stop].tolist() for batch in batches]
    for pixels, classes, samples, bad in load_in_workers(views, numbers, workers):
        reasons = [one.reason for one in bad]
        if pixels is None:
            yield DenseBatch(None, reasons)
            continue
        with torch.no_grad():
            tokens = encoder.encode(pixels.to(device))[TOKENS].float()
        if not tokens.isfinite().all():
            raise UserError(f"{encoder.name}: patch tokens are not finite: the weights are damaged")
        classes = classes.to(device)
        of_patches = patch_classes(classes, patch_size)
        yield DenseBatch(Dense(tokens, of_patches, classes.long(), samples), reasons)


def sample_patches(found: Dense, each: int, seed: int) -> Patches:
    """Draw at most `each` random patches of each image, of those that have a class."""
    tokens, classes, images = [], [], []
    rows = zip(found.samples, found.tokens, found.patches.cpu().numpy(), strict=True)
    for sample, of_image, of in rows:
        labelled = np.flatnonzero(of != IGNORE)
        words = fold(seed, Stream.STATISTICS, sample, labelled) if len(labelled) else []
        chosen = np.sort(labelled[np.argsort(words, kind="stable")[:each]])
        tokens.append(of_image[torch.from_numpy(chosen).to(of_image.device)].cpu())
        classes.append(of[chosen])
        images.append(np.full(len(chosen), sample))
    return Patches(torch.cat(tokens).numpy(), np.concatenate(classes), np.concatenate(images))
