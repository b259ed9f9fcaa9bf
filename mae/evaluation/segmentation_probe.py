"""Stages of `mae segment` on one process or several: masks, training patches, fits, test."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mae.base.disk_space import gigabytes
from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.portion import Portion
from mae.data.images import Images
from mae.evaluation.dense_tokens import MaskedImages
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import blank_vectors
from mae.evaluation.mask_classes import MaskClasses, MaskOptions, mask_classes
from mae.evaluation.mask_survey import Survey, listed
from mae.evaluation.results import prefixed_log
from mae.evaluation.segmentation import BATCH, EncoderEvaluation, Probing, evaluate_encoder
from mae.evaluation.segmentation_masks import BACKGROUND, Masks, survey_masks
from mae.evaluation.segmentation_scores import RESAMPLES

IMAGE_BYTES = 600
"""bytes that the counts of an image take, of a dozen classes"""
COPIES = 6
"""copies of the training patches that fitting holds at a time, measured on 50,000 of width 768"""


class SegmentSettings(NamedTuple):
    """Settings of the evaluation."""

    options: MaskOptions
    unmasked: str
    """treatment of images without a mask"""
    patches: int
    """number of training patches"""
    seed: int
    max_bad: int
    """maximum number of bad images of either data set"""

    def plan(self) -> list[object]:
        """All that the parts depend on."""
        table, reading, void = self.options
        classes = table and [table.of_colours, table.names, table.classes]
        return [classes, reading, void, self.unmasked, self.patches, self.seed]


class Segmented(NamedTuple):
    """Result of all encoders, and the images that it is of."""

    evaluations: dict[str, EncoderEvaluation]
    classes: MaskClasses
    known: list[int]
    """classes of the training masks"""
    train: MaskedImages
    """the images that training patches are drawn from"""
    test: MaskedImages

    @property
    def masks(self) -> tuple[Masks, Masks]:
        """Masks of train and of test."""
        return self.train.masks, self.test.masks


def segment_with(
    encoders: Mapping[str, FrozenEncoder],
    patch_size: tuple[int, int],
    train: Images,
    test: Images,
    settings: SegmentSettings,
    *,
    out: Path,
    device: torch.device | str,
    workers: int,
    portion: Portion,
    log: Callable[[str], None],
) -> Segmented | None:
    """Evaluate `encoders`, by name: the evaluated one first, then the baselines.

    Each process works on its `portion`, with its parts beside `out`, from which an interrupted call
    resumes; None in the processes that do not join.  Raises UserError where masks do not fit their
    images or have no clear classes, more than `max_bad` of either data set do not decode, or test
    masks have a class that training masks lack.
    """
    table = settings.options.table
    by_colour = table is not None and table.of_colours
    masks = [
        Masks(images, key, unmasked=settings.unmasked, by_colour=by_colour, portion=portion)
        for key, images in (("--train", train), ("--test", test))
    ]
    for line in cost_lines(encoders, masks, train.channels, settings.patches, device):
        log(line)
    known_encoders = [
        [name, one.sha256, one.settings, one.img_size, one.crop_pct, one.pixels]
        for name, one in encoders.items()
    ]
    digests = [one.sha256() for one in masks]
    plan = json.dumps([known_encoders, patch_size, digests, settings.plan(), BATCH])
    evaluations: dict[str, EncoderEvaluation] = {}
    with divided_work(out, plan, portion, log) as work:
        survey = Survey(table)
        for images, one in zip((train, test), masks, strict=True):
            survey_masks(work, images, one, survey, workers, log)
        classes = mask_classes(survey, settings.options)
        log(f"masks: {classes.about}")
        known = checked_classes(classes, survey, masks)
        ours, theirs = (
            MaskedImages(images, one, classes, one.samples)
            for images, one in zip((train, test), masks, strict=True)
        )
        ours = ours.drawn(settings.patches, settings.seed)
        for name, encoder in encoders.items():
            probing = Probing(
                work=work,
                name=name,
                encoder=encoder,
                patch_size=patch_size,
                max_bad=settings.max_bad,
                device=device,
                workers=workers,
                log=prefixed_log(log, name),
            )
            found = evaluate_encoder(probing, ours, theirs, settings.patches, settings.seed)
            if found is not None:
                evaluations[name] = found
    return Segmented(evaluations, classes, known, ours, theirs) if evaluations else None


def cost_lines(
    encoders: Mapping[str, FrozenEncoder],
    masks: Sequence[Masks],
    channels: int,
    patches: int,
    device: torch.device | str,
) -> Iterator[str]:
    """Lines on what the evaluation will read, encode and keep."""
    train, test = (len(one.samples) for one in masks)
    widths = [blank_vectors(one, channels, device)[TOKENS].shape[2] for one in encoders.values()]
    drawn = min(train, patches)
    of = f"{drawn:,}" if drawn == train else f"{drawn:,} of {train:,}"
    encoder = "the encoder" if len(widths) == 1 else f"each of {len(widths)} encoders"
    yield (
        f"to do: read the masks of {train + test:,} images, encode {of} training images and "
        f"{test:,} test images by {encoder}"
    )
    kept = max(drawn, patches)
    disk = sum(4 * kept * width + IMAGE_BYTES * test for width in widths)
    memory = COPIES * 4 * kept * max(widths) + test * (RESAMPLES + IMAGE_BYTES * len(widths))
    yield (
        f"tokens are kept of {kept:,} training patches only (--patches): {gigabytes(disk)} on disk "
        f"until the end, some {gigabytes(memory)} of memory in the first process"
    )


def checked_classes(classes: MaskClasses, survey: Survey, masks: Sequence[Masks]) -> list[int]:
    """Classes of the training masks; UserError for fewer than two, or others in the test masks."""
    known, tested = (
        {*classes.seen(survey, m.key)}
        | ({classes.background()} if m.unmasked == BACKGROUND and len(m.missing) else set())
        for m in masks
    )
    if unknown := sorted(tested - known):
        shown = listed(classes.names[c] for c in unknown)
        raise UserError(
            f"--test: class {shown} of the masks does not occur in --train: move "
            "images that have it to --train, or make it void in --palette"
        )
    if len(known) < 2:
        shown = listed(classes.names[c] for c in known)
        raise UserError(
            f"--train: masks of {len(known)} class; the probe needs two classes (only {shown}; "
            f"{classes.about})"
        )
    return sorted(known)
