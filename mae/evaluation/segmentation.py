"""Segmentation probe: classes of patches and pixels predicted from frozen patch tokens.

The class of a patch is that of most of its pixels.  A linear classifier and k-NN are fitted to the
tokens of training patches and predict the classes of test patches; their scores are also
interpolated between patches and evaluated at every pixel.  The encoder is not trained, and there
is no decoder.  Tokens are not kept, but for those of the training patches.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.divided_work import DividedWork
from mae.base.errors import UserError
from mae.base.progress import ProgressLine, busy
from mae.evaluation.dense_tokens import (
    Dense,
    DenseBatch,
    MaskedImages,
    Patches,
    encode_dense,
    sample_patches,
)
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.features import Skipped
from mae.evaluation.image_counts import Counts, ImageCounts
from mae.evaluation.parts import do_batches, pack_columns, unpack_columns
from mae.evaluation.segmentation_classifiers import (
    KNNClassifier,
    LinearClassifier,
    choose_linear,
)
from mae.evaluation.segmentation_scores import count

BATCH = 32
"""images per batch"""

PATCHES = 50_000
"""training patches to fit the classifiers to"""

Scorer = Callable[[Tensor], Tensor]
"""tokens [m d] → scores [m classes], the highest of which is the prediction"""

LINEAR, KNN = "linear", "k-NN"
OF_PATCHES, OF_PIXELS = "patches", "pixels"
KEYS = [(classifier, of) for classifier in (LINEAR, KNN) for of in (OF_PATCHES, OF_PIXELS)]
"""classifiers, and units that they are evaluated on"""


class EncoderEvaluation(NamedTuple):
    """Result of the segmentation probes on one encoder."""

    counts: dict[tuple[str, str], ImageCounts]
    """counts of every test image, by classifier and by unit: patches or pixels"""
    linear: LinearClassifier
    fitted: Patches
    """training patches, without their tokens"""
    skipped: tuple[list[str], list[str]]
    """shard, key and error of each skipped image of train and of test"""


class Probing(NamedTuple):
    """Encoder to probe, and how; the same in all processes."""

    work: DividedWork
    name: str
    """name of the encoder in the report"""
    encoder: FrozenEncoder
    patch_size: tuple[int, int]
    max_bad: int
    device: torch.device | str
    workers: int
    log: Callable[[str], None]

    def encode(self, part: MaskedImages, batches: Sequence[range]) -> Iterator[DenseBatch]:
        """Encode batches; UserError as soon as these alone have too many bad images."""
        skipped = self.skipped(part)
        for found in encode_dense(
            self.encoder,
            part,
            batches,
            patch_size=self.patch_size,
            device=self.device,
            workers=self.workers,
        ):
            skipped.add_reasons(found.reasons)
            yield found

    def skipped(self, part: MaskedImages) -> Skipped:
        """Record of the bad images of `part`, empty yet."""
        return Skipped(part.images, self.max_bad, total=len(part.samples))

    def parts(self, stage: str) -> str:
        """Name of the parts of a stage."""
        return f"{self.name}-{stage}"


def evaluate_encoder(
    probing: Probing, train: MaskedImages, test: MaskedImages, patches: int, seed: int
) -> EncoderEvaluation | None:
    """Fit the classifiers to patches of `train`, and evaluate them on `test`.

    `patches`: number of training patches, spread over the images.  Each process encodes its parts
    of the images, the first fits; None in the processes that do not join.  Raises UserError where
    more than `max_bad` images or masks of either data set do not decode, or no patch has a class.
    """
    work, log, classes = probing.work, probing.log, len(train.classes.numbers)
    each = max(1, -(-patches // len(train.samples)))
    log(f"tokens of {len(train.samples):,} training images")
    fitted, bad_of_train = training_patches(probing, train, each, seed)

    def fit() -> bytes:
        log(f"linear classifier on {len(fitted.classes):,} patches of {each} an image at most")
        with busy("fitting the linear classifier", log):
            linear = choose_linear(
                fitted.tokens, fitted.classes, images=fitted.images, classes=classes, seed=seed
            )
        return pack_columns(linear.columns(), [])

    stored = unpack_columns(work.once(probing.parts("fit"), fit)).columns
    linear = LinearClassifier.unpack(stored)
    neighbours = KNNClassifier(fitted.tokens, fitted.classes, classes, probing.device)
    scorers: dict[str, Scorer] = {LINEAR: linear.to(probing.device).scores, KNN: neighbours.scores}
    log(f"testing on {len(test.samples):,} images")

    def compute(batches: Sequence[range]) -> Iterator[tuple[dict[str, Counts], list[str]]]:
        for found in probing.encode(test, batches):
            counts = {}
            if found.dense is not None:
                counts = count_predictions(
                    found.dense, scorers, probing.encoder.img_size, probing.patch_size, classes
                )
            yield {" ".join(key): one for key, one in counts.items()}, found.reasons

    def pack(parts: list[tuple[dict[str, Counts], list[str]]]) -> bytes:
        columns = {}
        for key in next((counts for counts, _ in parts if counts), {}):
            table = np.concatenate([counts[key] for counts, _ in parts if counts])
            columns |= ImageCounts.of(table).columns(key)
        return pack_columns(columns, [reason for _, reasons in parts for reason in reasons])

    name, show = probing.parts("test"), ProgressLine("segmenting", "images", log)
    parts = do_batches(work, name, len(test.samples), BATCH, compute, pack, show)
    if not work.portion.joins:
        return None
    skipped, found = probing.skipped(test), []
    for part in map(unpack_columns, work.results(name, parts)):
        skipped.add_reasons(part.reasons)
        found += [part.columns] * bool(part.columns)
    counts = {key: ImageCounts.unpack(classes, " ".join(key), found) for key in KEYS}
    for reason in (*bad_of_train, *skipped.reasons):
        log(f"skipped: {reason}")
    # Tokens are not kept: one encoder's are enough to fill the memory.
    fitted = fitted._replace(tokens=fitted.tokens[:0])
    return EncoderEvaluation(counts, linear, fitted, (bad_of_train, skipped.reasons))


def training_patches(
    probing: Probing, train: MaskedImages, each: int, seed: int
) -> tuple[Patches, list[str]]:
    """At most `each` patches of each image of `train`, and the bad images; in all processes."""

    def compute(batches: Sequence[range]) -> Iterator[tuple[Patches | None, list[str]]]:
        for dense, reasons in probing.encode(train, batches):
            yield (None if dense is None else sample_patches(dense, each, seed)), reasons

    def pack(parts: list[tuple[Patches | None, list[str]]]) -> bytes:
        found = [patches for patches, _ in parts if patches is not None]
        columns = _joined(found)._asdict() if found else {}
        return pack_columns(columns, [reason for _, reasons in parts for reason in reasons])

    name, show = probing.parts("patches"), ProgressLine("encoding", "images", probing.log)
    total = len(train.samples)
    parts = do_batches(probing.work, name, total, BATCH, compute, pack, show, needs_all=True)
    skipped, found = probing.skipped(train), []
    for part in map(unpack_columns, probing.work.results(name, parts)):
        skipped.add_reasons(part.reasons)
        found += [Patches(**part.columns)] if part.columns else []
    fitted = _joined(found)
    if not len(fitted.classes):
        raise UserError("--train: no patch has a class: all pixels are void")
    return fitted, skipped.reasons


def _joined(parts: Sequence[Patches]) -> Patches:
    return Patches(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@torch.no_grad()
def count_predictions(
    found: Dense,
    scorers: dict[str, Scorer],
    img_size: tuple[int, int],
    patch_size: tuple[int, int],
    classes: int,
) -> dict[tuple[str, str], Counts]:
    """Counts of every image by the name of each of `scorers`, for patches and for pixels."""
    grid = img_size[0] // patch_size[0], img_size[1] // patch_size[1]
    counts: dict[tuple[str, str], Counts] = {}
    for name, score in scorers.items():
        scores = score(found.tokens.flatten(0, 1)).unflatten(0, found.patches.shape)
        counts[name, OF_PATCHES] = count(scores.argmax(2), found.patches, classes)
        pixels = [_interpolated(one, grid, img_size) for one in scores]  # one by one: memory
        counts[name, OF_PIXELS] = count(torch.stack(pixels), found.pixels, classes)
    return counts


def _interpolated(scores: Tensor, grid: tuple[int, int], img_size: tuple[int, int]) -> Tensor:
    """[n classes] scores of an image's patches → [h w] classes, interpolated bilinearly."""
    maps = scores.T.unflatten(1, grid)[None]
    return F.interpolate(maps, size=img_size, mode="bilinear", align_corners=False)[0].argmax(0)
