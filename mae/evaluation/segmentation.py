"""Dense evaluation: which class frozen patch tokens say that each part of an image is.

A patch's class is that of most of its pixels.  A linear classifier and k-NN on the tokens of
training patches say it for test patches; scores are also interpolated between patches and held
against every pixel.  Nothing of the encoder is trained, and no decoder is put behind it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.data.batches import batches
from mae.data.images import Images
from mae.errors import UserError
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.segmentation_classifiers import Neighbours, choose_linear
from mae.evaluation.segmentation_masks import IGNORE, MaskedViews, Masks, patch_classes
from mae.evaluation.segmentation_scores import Counts, Judged, count, judge, quality
from mae.evaluation.trained_record import percents
from mae.hashing import Stream, fold

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


class Patches(NamedTuple):
    """Labelled patches of the training images."""

    tokens: npt.NDArray[np.float32]
    """[m d]"""
    classes: npt.NDArray[np.int64]
    """[m]"""
    images: npt.NDArray[np.int64]
    """[m] which image each is of"""


def segmentation_report(
    encoder: FrozenEncoder,
    patch_size: tuple[int, int],
    train: Images,
    test: Images,
    *,
    patches: int = PATCHES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Mean IoU and pixel accuracy of a linear classifier and of k-NN, at patches and at pixels.

    Raises UserError where an image has no mask or does not decode, masks are no PNGs of classes
    or of another size than their image, test masks have a class that training's lack.
    """
    masks, test_masks = Masks(train, "--train"), Masks(test, "--test")
    known, asked = masks.classes(), test_masks.classes()
    if len(unknown := np.setdiff1d(asked, known)):
        raise UserError(f"--test: class {unknown[0]} of the masks does not occur in --train")
    if len(known) < 2:
        raise UserError(f"--train: masks of {len(known)} class; there is nothing to tell")
    classes = int(known.max()) + 1

    def dense(images: Images, of: Masks) -> Iterator[Dense]:
        return encode_dense(encoder, images, of, patch_size, device, workers)

    say(f"tokens of {len(train.manifest):,} training images")
    each = max(1, -(-patches // len(train.manifest)))
    fitted = collect(dense(train, masks), each, seed)
    say(f"linear classifier on {len(fitted.classes):,} patches of {each} an image at most")
    linear = choose_linear(fitted.tokens, fitted.classes, fitted.images, classes, seed, device)
    neighbours = Neighbours(fitted.tokens, fitted.classes, classes, device)
    scorers: dict[str, Scorer] = {"linear": linear.scores, "k-NN": neighbours.scores}
    say(f"testing on {len(test.manifest):,} images")
    counts = measure(dense(test, test_masks), scorers, encoder.img_size, patch_size, classes)
    rows = []
    for (name, unit), of_images in counts.items():
        judged: Judged = judge(of_images, seed)
        rows.append({"classifier": name, "of": unit, **judged._asdict()})
    return {
        "protocol": "linear classifier and k-NN (20 neighbours, temperature 0.07) on frozen patch "
        "tokens; a patch has the class of most of its pixels; at pixels, scores interpolated",
        "selection": f"C by mean IoU on a tenth of the training images: {linear.strength:g}; "
        "refitted to all; the test set used once",
        "interval_rule": "95 %, percentile bootstrap over the test images, 1,000 resamples",
        "patches": len(fitted.classes),
        "patch_size": list(patch_size),
        "seed": seed,
        "classes": known.tolist(),
        "results": rows,
        "always_commonest": commonest(fitted.classes, counts["linear", "pixels"])._asdict(),
        "iou_by_class": by_class(counts["linear", "pixels"], known),
    }


def encode_dense(
    encoder: FrozenEncoder,
    images: Images,
    masks: Masks,
    patch_size: tuple[int, int],
    device: torch.device | str,
    workers: int,
) -> Iterator[Dense]:
    """All images in order."""
    views = MaskedViews(images, masks, encoder.img_size, encoder.crop_pct)
    starts = range(0, len(views), BATCH)
    slices = [range(start, min(start + BATCH, len(views))) for start in starts]
    for pixels, classes in batches(views, slices, workers):
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


def commonest(classes: npt.NDArray[np.int64], counts: Counts) -> Any:
    """What always telling the class of most training patches gives."""
    total = counts.sum(axis=0)
    guess, true = np.bincount(classes).argmax(), total[:, 2]
    told = np.zeros_like(total)
    told[:, 2] = true
    told[guess] = true[guess], true.sum(), true[guess]
    return quality(told)


def by_class(counts: Counts, known: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """IoU of each class; None for those neither told nor true in any test image."""
    right, told, true = counts.sum(axis=0).T
    union = told + true - right
    return {str(c): float(right[c] / union[c]) if union[c] else None for c in known.tolist()}


def segmentation_table(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ("mean IoU", "95 %", "accuracy", "95 %")
    lines = [f"{'dense, frozen tokens':24}" + "".join(f"{head:>12}" for head in heads)]
    for row in report["results"]:
        name = f"{row['classifier']}, {row['of']}"
        cells = (
            f"{row['mean_iou']:.1%}",
            percents(row["mean_iou_interval"]),
            f"{row['accuracy']:.1%}",
            percents(row["accuracy_interval"]),
        )
        lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
    floor = report["always_commonest"]
    iou, accuracy = f"{floor['mean_iou']:.1%}", f"{floor['accuracy']:.1%}"
    lines.append(f"{'always the commonest':24}{iou:>12}{'':12}{accuracy:>12}")
    lines.append(f"on {report['test_images']:,} test images, {len(report['classes'])} classes")
    return "\n".join(lines)
