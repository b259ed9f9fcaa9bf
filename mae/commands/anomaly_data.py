"""Images that a detector is fitted to or scores, of the options of `mae anomaly`."""

import argparse
from collections.abc import Sequence

import numpy as np

from mae.anomaly.companions import PAIRS
from mae.anomaly.images import Scored
from mae.anomaly.inputs import MATCHED, Reading, open_inputs, usual_kind
from mae.base.errors import UserError
from mae.base.portion import launched_portion
from mae.base.progress import ProgressLine
from mae.commands.shard_cache import open_cache
from mae.data.images import Images
from mae.data.labels import NO_LABEL
from mae.data.normal_classes import normal_classes
from mae.evaluation.comparison import count_seen
from mae.evaluation.features import Skipped

BITS = (8, 16)
"""bits of images that detectors read"""


def open_data(
    patterns: list[str],
    key: str,
    args: argparse.Namespace,
    channels: int,
    bits: int,
    references: Sequence[str] = (),
    *,
    with_classes: bool = False,
    normal: Sequence[str] = (),
) -> Images:
    """Images of shards, folders or files, which messages call by `key`; see `open_inputs`."""
    reading = _reading(args, channels, bits)._replace(with_classes=with_classes, normal=normal)
    return open_inputs(patterns, key, reading, references)


def chosen_kind(args: argparse.Namespace, key: str = "--normal") -> tuple[int, int]:
    """Channels and bits of `mae anomaly fit`: as given, else those of most normal images.

    Raises UserError as `usual_kind`, and where those are floats.
    """
    if args.channels and args.bits:
        return args.channels, args.bits
    channels, bits = usual_kind(args.normal, key, _reading(args, 3, 8))
    channels, bits = args.channels or channels, args.bits or bits
    if bits not in BITS:
        raise UserError(f"{key}: holds floats, and mae anomaly reads images of 8 or 16 bits")
    return channels, bits


def _reading(args: argparse.Namespace, channels: int, bits: int) -> Reading:
    progress = ProgressLine("reading", "files", launched_portion().log)
    return Reading(channels, bits, args.index_dir, open_cache(args), progress)


def check_normal(images: Images, key: str, chosen: Sequence[str] = ()) -> str:
    """Line on the classes that are taken for normal; "" where there are no labels.

    `chosen`: their names, see `normal_classes`.  Raises as that, and UserError where images are of
    other classes.
    """
    labels = np.asarray(images.manifest.label)
    normal = normal_classes(images.manifest, chosen, key)
    odd = np.flatnonzero(~normal.of(labels) & (labels != NO_LABEL))
    if len(odd):
        raise UserError(
            f"{key}: {len(odd):,} of {len(labels):,} images are of another class than "
            f"{normal}, first {images.manifest.name(int(odd[0]))} "
            f"({normal.name(int(labels[odd[0]]))}): a detector is fitted to normal images alone"
            + " (--normal-class NAME where others are normal)"
            * bool(normal.names and not normal.is_named)
        )
    return normal.line() if (labels != NO_LABEL).any() else ""


def refuse_shared(normal: Images, calibration: Images) -> None:
    """Raise UserError where calibration images are, byte for byte, among the normal ones."""
    if seen := count_seen(normal.manifest, calibration.manifest):
        raise UserError(
            f"--calibration: {seen:,} of its images are in --normal too, byte for byte: their "
            "scores are too small, and so the threshold: use other images"
        )


def references_of(args: argparse.Namespace, recorded: str | None) -> list[str]:
    """References for images to score: those of the command line, or as the detector `recorded`.

    Raises UserError where the detector needs references that it does not keep, or has none.
    """
    if args.reference and not recorded:
        raise UserError(f"--reference: {args.detector} was fitted without references")
    if args.reference or not recorded:
        return args.reference or []
    if recorded == MATCHED:
        raise UserError(
            f"{args.detector} compares images with references of the same key: add --reference"
        )
    return [PAIRS] if recorded == PAIRS else [str(args.detector / recorded)]


def check_bad(scored: Scored, images: Images, max_bad: int) -> None:
    """Raise UserError for more than `max_bad` images, or masks, that could not be read."""
    Skipped(images, max_bad, setting="--max-bad").add_reasons(scored.bad)
    if len(scored.bad_masks) > max_bad:
        raise UserError(
            f"mask not read: {scored.bad_masks[0]} (one of {len(scored.bad_masks):,} bad masks, "
            f"more than --max-bad = {max_bad})"
        )


def bad_words(scored: Scored) -> str:
    """Words for a summary on what could not be read; none where all could."""
    skipped, masks = len(scored.bad), len(scored.bad_masks)
    unread = f", {masks:,} mask{'s' * (masks > 1)} not read" if masks else ""
    return (f", {skipped:,} skipped" if skipped else "") + unread
