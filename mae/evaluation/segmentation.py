"""Segmentation probe: classes of patches and pixels predicted from frozen patch tokens.

The class of a patch is that of most of its pixels.  A linear classifier and k-NN are fitted to the
tokens of training patches and predict the classes of test patches; their scores are also
interpolated between patches and evaluated at every pixel.  The encoder is not trained, and there
is no decoder.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.data.images import Images
from mae.data.worker_loader import load_in_workers
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import Matrix, Skipped, ranges
from mae.evaluation.knn import TEMPERATURE, K
from mae.evaluation.probe import is_edge, regularisation_path, standardise
from mae.evaluation.segmentation_masks import (
    IGNORE,
    Counts,
    MaskedViews,
    Masks,
    count,
    patch_classes,
    quality,
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""candidates of scikit-learn's C, the inverse of the penalty on the squared weights"""

ITERATIONS = 200
"""maximum number of L-BFGS iterations"""

SIMILARITIES = 2**24
"""similarities held at a time: 64 MB"""

NEVER = -1e30
"""score of classes that are never predicted: finite, since interpolation multiplies it by 0"""

BATCH = 32
"""images per batch"""

PATCHES = 50_000
"""training patches to fit the classifiers to"""

Numbers = npt.NDArray[np.int64]

Scorer = Callable[[Tensor], Tensor]
"""tokens [m d] → scores [m classes], the highest of which is the prediction"""


class LinearClassifier:
    """Multinomial logistic regression on standardised tokens."""

    def __init__(
        self, tokens: Matrix, labels: Numbers, classes: int, strength: float, device: str
    ) -> None:
        self.strength, self.at_edge = strength, False
        """at_edge: C is the smallest or largest candidate, and better than all in between"""
        scaled, _ = standardise(tokens, tokens[:1])
        model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(scaled, labels)
        self.iterations = int(np.max(model.n_iter_))
        """iterations of the fit; ITERATIONS: stopped before it converged"""
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # then one row only: the second class against the first
            weights, bias = np.vstack([0 * weights, weights]), np.array([0.0, *bias])
        mean, deviation = tokens.mean(axis=0), tokens.std(axis=0)
        own = weights / np.where(deviation > 1e-6, deviation, 1)
        width = tokens.shape[1]
        # Classes without a training patch are never predicted.
        self.weights = torch.zeros(classes, width)
        self.bias = torch.full((classes,), NEVER)
        self.weights[model.classes_] = torch.from_numpy(own).float()
        self.bias[model.classes_] = torch.from_numpy(bias - own @ mean).float()
        self.weights, self.bias = self.weights.to(device), self.bias.to(device)

    def scores(self, tokens: Tensor) -> Tensor:
        """[m d] → [m classes]."""
        return tokens @ self.weights.T + self.bias


def choose_linear(
    tokens: Matrix,
    labels: Numbers,
    images: Numbers,
    classes: int,
    seed: int,
    device: torch.device | str,
) -> LinearClassifier:
    """Choose C by mean IoU on the patches of a tenth of the images, then fit to all patches.

    Whole images are held out, because patches of one image resemble each other.  Raises UserError
    for fewer than ten images, or where nearly all patches are of one class.
    """
    numbers = np.unique(images)
    if len(numbers) < 10:
        raise UserError(f"--train: {len(numbers)} images with classes; a tenth must choose")
    order = np.argsort(fold(seed, Stream.ORDER, numbers), kind="stable")
    held_out = np.isin(images, numbers[order[: len(numbers) // 10]])
    if len(np.unique(labels[~held_out])) < 2:
        raise UserError("--train: nearly all patches are of one class; the probe needs two classes")
    scaled, scaled_held_out = standardise(tokens[~held_out], tokens[held_out])
    truth = torch.from_numpy(labels[held_out])[None]
    with threadpool_limits(1 if tokens.size < 10**6 else None), warnings.catch_warnings():
        # A fit that stops early is compared by its mean IoU like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = regularisation_path(
            scaled, labels[~held_out], scaled_held_out, STRENGTHS, ITERATIONS
        )
        reached = [
            quality(count(torch.from_numpy(fit.predicted)[None], truth, classes)[0]).mean_iou
            for fit in fits
        ]
        best = STRENGTHS[int(np.argmax(reached))]  # the strongest penalty among equals
        linear = LinearClassifier(tokens, labels, classes, best, str(device))
    linear.at_edge = is_edge(np.array(reached))
    return linear


class KNNClassifier:
    """Vote of the K most similar training patches, as in DINO (Caron et al. 2021, section 4.1)."""

    def __init__(
        self, tokens: Matrix, labels: Numbers, classes: int, device: torch.device | str
    ) -> None:
        self.tokens = torch.nn.functional.normalize(torch.from_numpy(tokens).to(device), dim=1)
        self.labels = torch.from_numpy(labels).to(device)
        self.classes = classes

    def scores(self, tokens: Tensor) -> Tensor:
        """[m d] → [m classes]: share of the votes, each of weight exp(cosine / TEMPERATURE)."""
        found = []
        for part in tokens.split(max(1, SIMILARITIES // len(self.tokens))):
            similar = torch.nn.functional.normalize(part, dim=1) @ self.tokens.T
            near = similar.topk(min(K, len(self.tokens)), dim=1)
            share = (near.values / TEMPERATURE).softmax(dim=1)
            votes = torch.zeros(len(part), self.classes, device=tokens.device)
            found.append(votes.scatter_add_(1, self.labels[near.indices], share))
        return torch.cat(found)


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
    fitted: npt.NDArray[np.int64]
    """[m] classes of the training patches"""
    skipped: tuple[list[str], list[str]]
    """shard, key and error of each skipped image of train and of test"""


def evaluate_encoder(
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
    log: Callable[[str], None] = print,
) -> EncoderEvaluation:
    """Fit the classifiers to patches of `train`, and evaluate them on `test`.

    `patches`: number of training patches, spread over the images.  Raises UserError where more
    than `max_bad` images or masks of either data set do not decode.
    """
    skipped = Skipped(train.images, max_bad), Skipped(test.images, max_bad)

    def dense(part: MaskedImages, bad: Skipped) -> Iterator[Dense]:
        return encode_dense(
            encoder,
            part.images,
            masks=part.masks,
            patch_size=patch_size,
            device=device,
            workers=workers,
            skipped=bad,
        )

    images = len(train.images.manifest)
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
    log(f"testing on {len(test.images.manifest):,} images")
    found = dense(test, skipped[1])
    counts = count_predictions(found, scorers, encoder.img_size, patch_size, classes)
    for bad in skipped:
        bad.report(log)
    return EncoderEvaluation(
        counts, linear, fitted.classes, (skipped[0].reasons, skipped[1].reasons)
    )


def encode_dense(
    encoder: FrozenEncoder,
    images: Images,
    masks: Masks,
    patch_size: tuple[int, int],
    device: torch.device | str,
    workers: int,
    skipped: Skipped,
) -> Iterator[Dense]:
    """Encode all images in order; bad ones are added to `skipped`."""
    views = MaskedViews(images, masks, encoder.img_size, encoder.crop_pct)
    for pixels, classes, bad in load_in_workers(views, ranges(len(views), BATCH), workers):
        skipped.add(bad)
        if pixels is None:
            continue
        with torch.no_grad():
            tokens = encoder.encode(pixels.to(device))[TOKENS].float()
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
        raise UserError(f"--train: every patch is of {IGNORE}, which stands for no class")
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
