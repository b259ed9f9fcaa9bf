"""What `mae pack` has found and done, for people and for `pack.json`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.pack.duplicates import exact_copies, lookalikes
from mae.pack.plan import PackOptions, ShardReport, ShardTask
from mae.pack.sources import SHOWN, Listing, shown

LANES = 64
MUCH = 1_000_000_000


class Copies(NamedTuple):
    """Files with equal content."""

    files: int
    """that are copies of another, the first of each group not counted"""
    dropped: int
    """of these, not packed (--drop-duplicates)"""
    other_label: int
    """groups whose files differ in label"""
    across: int
    """groups with files in several splits"""
    groups: tuple[tuple[str, ...], ...]
    """the first ten"""


class Alike(NamedTuple):
    """Images held out that look like a training image, exact copies left out."""

    images: int
    pairs: tuple[tuple[str, str, int], ...]
    """the first ten: training image, image held out, bits of 64 that differ"""


class Packed(NamedTuple):
    """What `pack` wrote."""

    out: str
    source: str
    splits: dict[str, int]
    """images per split"""
    shards: dict[str, int]
    """shards per split"""
    bytes_in: int
    bytes_out: int
    """of images"""
    classes: tuple[str, ...]
    labels: int
    """images that have one"""
    channels: dict[int, int]
    """images by number of channels as stored, alpha not counted"""
    bits: dict[int, int]
    """images by bits a channel, as stored"""
    usual: tuple[int, int]
    """channels and bits of most images"""
    short_side: tuple[int, int, int]
    """smallest, median, largest in pixels, as stored"""
    skipped: tuple[tuple[str, str], ...]
    """files that were left out, and why"""
    copies: Copies
    alike: Alike
    pixel_cost: float | None
    """mean absolute difference of 255 between source and stored; None: bytes are as they were"""
    notes: tuple[str, ...]
    """what a person should know before training"""


def report(
    out: str,
    listing: Listing,
    options: PackOptions,
    dropped: npt.NDArray[np.int64],
    tasks: Sequence[ShardTask],
    reports: Sequence[ShardReport],
) -> Packed:
    """All shards' reports in one."""
    rows = np.concatenate([found.images for found in reports])
    counts = [len(found.images) for found in reports]
    splits = sorted({task.split for task in tasks}, key=lambda name: (name != "train", name))
    split = np.repeat([splits.index(task.split) for task in tasks], counts)
    images = {
        name: sum(n for n, task in zip(counts, tasks, strict=True) if task.split == name)
        for name in splits
    }
    shards = {
        name: sum(n > 0 for n, task in zip(counts, tasks, strict=True) if task.split == name)
        for name in splits
    }
    sides = np.minimum(rows["height"], rows["width"])
    kinds = Counter(rows[["channels", "bits"]].tolist())
    measured = rows["cost"][~np.isnan(rows["cost"])]
    unusable = sorted(
        (_name(listing, image), str(reason))
        for found in reports
        for image, reason in zip(found.skipped.tolist(), found.reasons, strict=True)
    )
    few = _count(shards["train"], "training shard", "training shards")
    few_lanes = f"{few}: data.order=lanes needs data.lanes no larger"
    notes = [few_lanes] if shards["train"] < LANES and rows["bytes_out"].sum() > MUCH else []
    return Packed(
        out=out,
        source=shown(listing.name),
        splits=images,
        shards=shards,
        bytes_in=int(rows["bytes_in"].sum()),
        bytes_out=int(rows["bytes_out"].sum()),
        classes=tuple(map(shown, listing.classes)),
        labels=sum(listing.sources[image].label is not None for image in rows["image"].tolist()),
        channels=_histogram(rows["channels"]),
        bits=_histogram(rows["bits"]),
        usual=max(kinds, key=lambda kind: (kinds[kind], kind)),
        short_side=(int(sides.min()), int(np.median(sides)), int(sides.max())),
        skipped=tuple((shown(name), reason) for name, reason in (*listing.skipped, *unusable)),
        copies=_copies(listing, rows, split, dropped),
        alike=_alike(listing, rows, split == splits.index("train")),
        pixel_cost=float(measured.mean()) if len(measured) else None,
        notes=(*listing.notes, *notes),
    )


def describe(packed: Packed) -> list[str]:
    """The lines that a person reads after packing."""
    return [*_about_files(packed), *_about_copies(packed), *_about_images(packed)]


def to_json(packed: Packed) -> dict:
    """For `pack.json`."""
    nested = {"copies": packed.copies._asdict(), "alike": packed.alike._asdict()}
    return {**packed._asdict(), **nested}


def _about_files(packed: Packed) -> Iterator[str]:
    for name, reason in packed.skipped[:SHOWN]:
        yield f"skipped {name}: {reason}"
    if len(packed.skipped) > SHOWN:
        yield f"skipped {len(packed.skipped) - SHOWN:,} more files, see pack.json"
    yield from packed.notes


def _about_copies(packed: Packed) -> Iterator[str]:
    copies, alike = packed.copies, packed.alike
    if copies.files:
        left_out = "not packed" if copies.dropped else "--drop-duplicates leaves them out"
        yield f"{_count(copies.files, 'exact copy', 'exact copies')} ({left_out}), first:"
        yield from (f"  {' = '.join(group[:3])}" for group in copies.groups[:3])
    if copies.other_label:
        groups = _count(copies.other_label, "group", "groups")
        yield f"{groups} of exact copies with different labels"
    if copies.across:
        yield f"{_count(copies.across, 'group', 'groups')} of exact copies in several splits"
    if alike.images:
        images = _count(alike.images, "image held out looks", "images held out look")
        yield f"{images} like a training image, first:"
        yield from (f"  {ours} ~ {theirs}" for ours, theirs, _ in alike.pairs[:3])


def _about_images(packed: Packed) -> Iterator[str]:
    images = ", ".join(
        f"{name} {_count(count, 'image', 'images')} "
        f"in {_count(packed.shards[name], 'shard', 'shards')}"
        for name, count in packed.splits.items()
    )
    named = _count(len(packed.classes), "class", "classes")
    labels = named if packed.classes else "class numbers"
    yield f"{packed.out}: {images}, {labels if packed.labels else 'no labels'}"
    low, median, high = packed.short_side
    sides = f"{low:,}" if low == high else f"{low:,} to {high:,}, median {median:,}"
    kinds = f"{_listed(packed.channels)} channels of {_listed(packed.bits)} bits"
    yield f"short side {sides} pixels; {kinds}; {packed.bytes_out / 1e6:,.1f} MB of images"
    if packed.pixel_cost is not None:
        before = f"{packed.bytes_in / 1e6:,.1f} MB before"
        yield f"encoded anew: {before}; costs {packed.pixel_cost:.2f} of 255 per pixel on average"
    if settings := suggestion(*packed.usual):
        yield f"to train on them as they are: {settings}"
    most = max(packed.bits)
    if most > packed.usual[1]:
        deep = _count(packed.bits[most], f"image of {most} bits is", f"images of {most} bits are")
        yield f"{deep} left out unless data.bits={most}"


def suggestion(channels: int, bits: int) -> str:
    """Settings for images of this kind; "" where the defaults, 3 channels of 8 bits, fit."""
    settings = (f"data.bits={bits}" * (bits > 8), f"data.in_chans={channels}" * (channels != 3))
    return " ".join(filter(None, settings))


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _listed(histogram: Mapping[int, int]) -> str:
    if len(histogram) == 1:
        return str(next(iter(histogram)))
    return ", ".join(f"{value} ({count:,})" for value, count in histogram.items())


def _histogram(values: npt.NDArray[np.int64]) -> dict[int, int]:
    return dict(sorted(Counter(values.tolist()).items()))


def _name(listing: Listing, image: int) -> str:
    return listing.reader.name(listing.sources[image].reference)


def _copies(
    listing: Listing,
    rows: npt.NDArray[np.void],
    split: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.int64],
) -> Copies:
    order = np.argsort(rows["image"], kind="stable")
    rows, split = rows[order], split[order]
    found = exact_copies(rows["digest"])
    across = sum(len(np.unique(split[group])) > 1 for group in found)
    groups = [rows["image"][group].tolist() for group in found]
    by_original: dict[int, list[int]] = {}
    for copy, original in dropped.tolist():
        by_original.setdefault(original, [original]).append(copy)
    groups = sorted([*groups, *by_original.values()])
    labels = [{listing.sources[image].label for image in group} for group in groups]
    return Copies(
        files=sum(len(group) - 1 for group in groups),
        dropped=len(dropped),
        other_label=sum(len(found) > 1 for found in labels),
        across=across,
        groups=tuple(
            tuple(shown(_name(listing, image)) for image in group[:SHOWN])
            for group in groups[:SHOWN]
        ),
    )


def _alike(listing: Listing, rows: npt.NDArray[np.void], train: npt.NDArray[np.bool_]) -> Alike:
    order = np.argsort(rows["image"], kind="stable")
    ours, theirs = (order[rows["has_look"][order] & part[order]] for part in (train, ~train))
    # Copies are reported as such.
    known = {digest.tobytes() for digest in rows["digest"][train]} if len(theirs) else set()
    theirs = np.array([i for i in theirs if rows["digest"][i].tobytes() not in known], np.int64)
    found = lookalikes(rows["look"][ours], rows["look"][theirs])
    pairs = []
    for first, second, distance in list(zip(*found, strict=True))[:SHOWN]:
        a, b = (int(rows["image"][i]) for i in (ours[first], theirs[second]))
        pairs.append((shown(_name(listing, a)), shown(_name(listing, b)), int(distance)))
    return Alike(len(found.second), tuple(pairs))
