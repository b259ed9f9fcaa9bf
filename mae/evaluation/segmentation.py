"""Segmentation probe: classes of patches and pixels predicted from frozen patch tokens.

The class of a patch is that of most of its pixels.  A linear classifier and k-NN are fitted to the
tokens of training patches and predict the classes of test patches; their scores are also
interpolated between patches and evaluated at every pixel.  The encoder is not trained, and there
is no decoder.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.data.images import Images
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import Skipped
from mae.evaluation.mask_classes import IGNORE, MaskClasses
from mae.evaluation.segmentation_classifiers import (
    KNNClassifier,
    LinearClassifier,
    choose_linear,
)
from mae.evaluation.segmentation_masks import MaskedViews, Masks, patch_classes
from mae.evaluation.segmentation_scores import Counts, count

BATCH = 32
"""images per batch"""

PATCHES = 50_000
"""training patches to fit the classifiers to"""

Scorer = Callable[[Tensor], Tensor]
"""tokens [m d] → scores [m classes], the highest of which is the prediction"""


class Dense(NamedTuple):
    """Patch tokens of a batch of images, with the classes of patches and pixels."""

    tokens: Tensor
    """float32 [b n d]"""
    patches: Tensor
    """int64 [b n] class of each patch, or IGNORE"""
    pixels: Tensor
    """int64 [b h w] class of each pixel, or IGNORE"""


class MaskedImages(NamedTuple):
    """Images of a data set with their masks."""

    images: Images
    masks: Masks
    classes: MaskClasses
    """meaning of the masks"""


class Patches(NamedTuple):
    """Labelled patches of the training images."""

    tokens: npt.NDArray[np.float32]
    """[m d]"""
    classes: npt.NDArray[np.int64]
    """[m]"""
    images: npt.NDArray[np.int64]
    """[m] number of the image that each belongs to"""


class EncoderEvaluation(NamedTuple):
    """Result of the segmentation probes on one encoder."""

    counts: dict[tuple[str, str], Counts]
    """counts of every test image, by classifier and by unit: patches or pixels"""
    linear: LinearClassifier
    fitted: Patches
    """training patches"""
    skipped: tuple[list[str], list[str]]
    """shard, key and error of each skipped image of train and of test"""


def evaluate_encoder(
    encoder: FrozenEncoder,
    patch_size: tuple[int, int],
    train: MaskedImages,
    test: MaskedImages,
    *,
    patches: int = PATCHES,
    seed: int = 0,
    max_bad: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Callable[[str], None] = print,
) -> EncoderEvaluation:
    """Fit the classifiers to patches of `train`, and evaluate them on `test`.

    `patches`: number of training patches, spread over the images.  Raises UserError where more
    than `max_bad` images or masks of either data set do not decode.
    """
    skipped = [
        Skipped(part.images, max_bad, total=len(part.masks.samples)) for part in (train, test)
    ]

    def dense(part: MaskedImages, bad: Skipped) -> Iterator[Dense]:
        return encode_dense(
            encoder,
            part,
            patch_size=patch_size,
            device=device,
            workers=workers,
            skipped=bad,
        )

    images, classes = len(train.masks.samples), len(train.classes.numbers)
    log(f"tokens of {images:,} training images")
    each = max(1, -(-patches // images))
    fitted = sample_patches(dense(train, skipped[0]), each, seed)
    log(f"linear classifier on {len(fitted.classes):,} patches of {each} an image at most")
    linear = choose_linear(
        fitted.tokens,
        fitted.classes,
        images=fitted.images,
        classes=classes,
        seed=seed,
        device=device,
    )
    neighbours = KNNClassifier(fitted.tokens, fitted.classes, classes, device)
    scorers: dict[str, Scorer] = {"linear": linear.scores, "k-NN": neighbours.scores}
    log(f"testing on {len(test.masks.samples):,} images")
    found = dense(test, skipped[1])
    counts = count_predictions(found, scorers, encoder.img_size, patch_size, classes)
    for bad in skipped:
        bad.report(log)
    # Tokens are not kept: one encoder's are enough to fill the memory.
    fitted = fitted._replace(tokens=fitted.tokens[:0])
    return EncoderEvaluation(counts, linear, fitted, (skipped[0].reasons, skipped[1].reasons))


def encode_dense(
    encoder: FrozenEncoder,
    part: MaskedImages,
    patch_size: tuple[int, int],
    device: torch.device | str,
    workers: int,
    skipped: Skipped,
) -> Iterator[Dense]:
    """Encode all images with masks in order; bad ones are added to `skipped`.

    UserError for tokens that are not finite.
    """
    views = MaskedViews(*part, encoder.img_size, encoder.crop_pct)
    samples = part.masks.samples
    batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    for pixels, classes, bad in load_in_workers(views, batches, workers):
        skipped.add(bad)
        if pixels is None:
            continue
        with torch.no_grad():
            tokens = encoder.encode(pixels.to(device))[TOKENS].float()
        if not tokens.isfinite().all():
            raise UserError(f"{encoder.name}: patch tokens are not finite: the weights are damaged")
        classes = classes.to(device)
        yield Dense(tokens, patch_classes(classes, patch_size), classes.long())


def sample_patches(found: Iterator[Dense], each: int, seed: int) -> Patches:
    """Draw at most `each` random patches of each image, of those that have a class.

    Raises UserError where no patch has a class.
    """
    tokens, classes, images, number = [], [], [], 0
    for batch in found:
        for rows, of in zip(batch.tokens, batch.patches.cpu().numpy(), strict=True):
            labelled = np.flatnonzero(of != IGNORE)
            words = fold(seed, Stream.STATISTICS, number, labelled) if len(labelled) else []
            chosen = np.sort(labelled[np.argsort(words, kind="stable")[:each]])
            tokens.append(rows[torch.from_numpy(chosen).to(rows.device)].cpu())
            classes.append(of[chosen])
            images.append(np.full(len(chosen), number))
            number += 1
    if not sum(map(len, classes)):
        raise UserError("--train: no patch has a class: all pixels are void")
    return Patches(torch.cat(tokens).numpy(), np.concatenate(classes), np.concatenate(images))


@torch.no_grad()
def count_predictions(
    found: Iterator[Dense],
    scorers: dict[str, Scorer],
    img_size: tuple[int, int],
    patch_size: tuple[int, int],
    classes: int,
) -> dict[tuple[str, str], Counts]:
    """Counts of every image by the name of each of `scorers`, for patches and for pixels."""
    grid = img_size[0] // patch_size[0], img_size[1] // patch_size[1]
    counts: dict[tuple[str, str], list[Counts]] = {}
    for batch in found:
        for name, score in scorers.items():
            scores = score(batch.tokens.flatten(0, 1)).unflatten(0, batch.patches.shape)
            of_patches = count(scores.argmax(2), batch.patches, classes)
            counts.setdefault((name, "patches"), []).append(of_patches)
            pixels = [_interpolated(one, grid, img_size) for one in scores]  # one by one: memory
            of_pixels = count(torch.stack(pixels), batch.pixels, classes)
            counts.setdefault((name, "pixels"), []).append(of_pixels)
    return {key: np.concatenate(parts) for key, parts in counts.items()}


def _interpolated(scores: Tensor, grid: tuple[int, int], img_size: tuple[int, int]) -> Tensor:
    """[n classes] scores of an image's patches → [h w] classes, interpolated bilinearly."""
    maps = scores.T.unflatten(1, grid)[None]
    return F.interpolate(maps, size=img_size, mode="bilinear", align_corners=False)[0].argmax(0)
