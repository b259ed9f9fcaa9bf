"""Dense evaluation: which class frozen patch tokens say that each part of an image is.

A patch's class is that of most of its pixels.  A linear classifier and k-NN on the tokens of
training patches say it for test patches; scores are also interpolated between patches and held
against every pixel.  Nothing of the encoder is trained, and no decoder is put behind it.
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
from mae.data.batches import batches
from mae.data.images import Images
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import ranges
from mae.evaluation.left_out import LeftOut
from mae.evaluation.segmentation_classifiers import Linear, Neighbours, choose_linear
from mae.evaluation.segmentation_masks import IGNORE, MaskedViews, Masks, patch_classes
from mae.evaluation.segmentation_scores import Counts, count

BATCH = 32
PATCHES = 50_000
"""training patches that are fitted to, and that neighbours are looked for among"""

Scorer = Callable[[Tensor], Tensor]
"""tokens [m d] → scores [m classes], the highest of which is the answer"""


class Dense(NamedTuple):
    """A batch of images, encoded."""

    tokens: Tensor
    """float32 [b n d]"""
    patches: Tensor
    """int64 [b n] class of each patch, or IGNORE"""
    pixels: Tensor
    """int64 [b h w] class of each pixel, or IGNORE"""


class MaskedImages(NamedTuple):
    """A data set."""

    images: Images
    masks: Masks


class Patches(NamedTuple):
    """Labelled patches of the training images."""

    tokens: npt.NDArray[np.float32]
    """[m d]"""
    classes: npt.NDArray[np.int64]
    """[m]"""
    images: npt.NDArray[np.int64]
    """[m] which image each is of"""


class Judgement(NamedTuple):
    """What the classifiers made of the tokens of one encoder."""

    counts: dict[tuple[str, str], Counts]
    """of every test image, by classifier and by what was judged: patches or pixels"""
    linear: Linear
    fitted: npt.NDArray[np.int64]
    """[m] classes of the patches that were fitted to"""
    left_out: tuple[list[str], list[str]]
    """what was wrong with further images of train and of test"""


def judge_encoder(
    encoder: FrozenEncoder,
    patch_size: tuple[int, int],
    train: MaskedImages,
    test: MaskedImages,
    classes: int,
    *,
    patches: int = PATCHES,
    seed: int = 0,
    max_bad: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> Judgement:
    """Fit the classifiers to patches of `train`, and count what they say of `test`.

    Raises UserError where more than `max_bad` images or masks of either part do not decode.
    """
    left_out = LeftOut(train.images, max_bad), LeftOut(test.images, max_bad)

    def dense(part: MaskedImages, bad: LeftOut) -> Iterator[Dense]:
        return encode_dense(encoder, part.images, part.masks, patch_size, device, workers, bad)

    images = len(train.images.manifest)
    say(f"tokens of {images:,} training images")
    each = max(1, -(-patches // images))
    fitted = collect(dense(train, left_out[0]), each, seed)
    say(f"linear classifier on {len(fitted.classes):,} patches of {each} an image at most")
    linear = choose_linear(fitted.tokens, fitted.classes, fitted.images, classes, seed, device)
    neighbours = Neighbours(fitted.tokens, fitted.classes, classes, device)
    scorers: dict[str, Scorer] = {"linear": linear.scores, "k-NN": neighbours.scores}
    say(f"testing on {len(test.images.manifest):,} images")
    found = dense(test, left_out[1])
    counts = measure(found, scorers, encoder.img_size, patch_size, classes)
    for bad in left_out:
        bad.tell(say)
    return Judgement(counts, linear, fitted.classes, (left_out[0].reasons, left_out[1].reasons))


def encode_dense(
    encoder: FrozenEncoder,
    images: Images,
    masks: Masks,
    patch_size: tuple[int, int],
    device: torch.device | str,
    workers: int,
    left_out: LeftOut,
) -> Iterator[Dense]:
    """All images in order but the bad ones, which `left_out` hears of."""
    views = MaskedViews(images, masks, encoder.img_size, encoder.crop_pct)
    for pixels, classes, bad in batches(views, ranges(len(views), BATCH), workers):
        left_out.add(bad)
        if pixels is None:
            continue
        with torch.no_grad():
            tokens = encoder.encode(pixels.to(device))[TOKENS].float()
        classes = classes.to(device)
        yield Dense(tokens, patch_classes(classes, patch_size), classes.long())


def collect(found: Iterator[Dense], each: int, seed: int) -> Patches:
    """At most `each` random patches of each image, of those that have a class."""
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
        raise UserError(f"--train: every patch is of {IGNORE}, which stands for no class")
    return Patches(torch.cat(tokens).numpy(), np.concatenate(classes), np.concatenate(images))


@torch.no_grad()
def measure(
    found: Iterator[Dense],
    scorers: dict[str, Scorer],
    img_size: tuple[int, int],
    patch_size: tuple[int, int],
    classes: int,
) -> dict[tuple[str, str], Counts]:
    """Counts of every image for each of `scorers`, at patches and at pixels."""
    grid = img_size[0] // patch_size[0], img_size[1] // patch_size[1]
    counts: dict[tuple[str, str], list[Counts]] = {}
    for batch in found:
        for name, score in scorers.items():
            scores = score(batch.tokens.flatten(0, 1)).unflatten(0, batch.patches.shape)
            told = count(scores.argmax(2), batch.patches, classes)
            counts.setdefault((name, "patches"), []).append(told)
            pixels = [_between(one, grid, img_size) for one in scores]  # one: memory
            told = count(torch.stack(pixels), batch.pixels, classes)
            counts.setdefault((name, "pixels"), []).append(told)
    return {key: np.concatenate(parts) for key, parts in counts.items()}


def _between(scores: Tensor, grid: tuple[int, int], img_size: tuple[int, int]) -> Tensor:
    """[n classes] scores of an image's patches → [h w] classes, interpolated bilinearly."""
    maps = scores.T.unflatten(1, grid)[None]
    return F.interpolate(maps, size=img_size, mode="bilinear", align_corners=False)[0].argmax(0)
