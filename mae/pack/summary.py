"""Report of `mae pack`: shards, properties of the images, duplicates; as text and `pack.json`."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.printable import printable
from mae.data.class_names import MAX_LISTED, quoted
from mae.data.labels import NO_LABEL
from mae.pack.duplicates import exact_duplicates, near_duplicates
from mae.pack.listing import Listing
from mae.pack.shard_reports import Reports

FEW_SHARDS, MANY_BYTES = 64, 1_000_000_000
SHOWN = 3
"""names of images that a line of the report is followed by"""
"""fewer training shards than this for more bytes than this get a note about data.order=lanes"""


class ExactDuplicates(NamedTuple):
    """Files with equal content."""

    files: int
    """number of duplicates, the first file of each group not counted"""
    dropped: int
    """number of these that are not packed (--drop-duplicates)"""
    other_label: int
    """number of groups whose files differ in label"""
    across: int
    """number of groups with files in several splits"""
    groups: tuple[tuple[str, ...], ...]
    """file names of the first ten groups"""


class HeldOutDuplicates(NamedTuple):
    """Validation and test images that are near duplicates of a training image, not exact ones."""

    images: int
    """number of them"""
    pairs: tuple[tuple[str, str, int], ...]
    """the first ten: training image, held-out image, Hamming distance in bits of 64"""


class PackReport(NamedTuple):
    """Report of `pack`; the content of `pack.json`."""

    out: str
    source: str
    splits: dict[str, int]
    """number of images per split"""
    shards: dict[str, int]
    """number of shards per split"""
    bytes_in: int
    """bytes of the packed images' source files"""
    bytes_out: int
    """bytes of the packed images as stored"""
    classes: tuple[str, ...]
    labels: int
    """number of images with a label"""
    channels: dict[int, int]
    """images by number of channels as stored, without alpha"""
    bits: dict[int, int]
    """images by bits per channel, as stored"""
    usual: tuple[int, int]
    """most frequent combination of channels and bits"""
    fewer_bits: tuple[str, ...]
    """names of the first ten images of fewer bits than most"""
    short_side: tuple[int, int, int]
    """smallest, median and largest short side in pixels, as stored"""
    skipped: tuple[tuple[str, str], ...]
    """(file, reason) of the files that are not packed"""
    excluded: tuple[tuple[str, int], ...]
    """(reason, number) of files that the options exclude"""
    copies: ExactDuplicates
    alike: HeldOutDuplicates
    pixel_cost: float | None
    """mean absolute difference between source and stored pixels, in [0, 255]; None: unchanged"""
    relative_cost: float | None
    """the same as a share of the images' own standard deviation: of 12 bits in 16 only 16 of 255
    levels are used"""
    constant: int
    """number of images whose pixels are all equal"""
    constant_images: tuple[str, ...]
    """names of the first ten of them"""
    notes: tuple[str, ...]
    """lines for the user to read before training"""


def summarize(
    out: str, listing: Listing, dropped: npt.NDArray[np.int64], reports: Reports
) -> PackReport:
    """Combine the reports of all shards; `dropped` [n 2] holds (duplicate, original) numbers."""
    rows, splits = reports.images, reports.splits
    split_of_shard = np.array([splits.index(task.split) for task in reports.tasks])
    split = np.repeat(split_of_shard, reports.counts)
    images = np.bincount(split, minlength=len(splits)).tolist()
    shards = {name: len(reports.written(name)) for name in splits}
    sides = np.minimum(rows["height"], rows["width"])
    kinds = _histogram((rows["channels"] << 8) + rows["bits"])
    usual = max(kinds, key=lambda kind: (kinds[kind], kind))
    is_measured = ~np.isnan(rows["cost"])
    measured, deviation = rows["cost"][is_measured], rows["deviation"]
    spread = float(deviation[is_measured].mean()) if is_measured.any() else 0.0
    unusable = sorted((listing.name_of(image), reason) for _, image, reason in reports.skipped)

    def first_names(chosen: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        numbers = np.sort(rows["image"][chosen])[:MAX_LISTED].tolist()
        return tuple(printable(listing.name_of(image)) for image in numbers)

    notes = [*listing.notes, *_about_classes(listing, rows["image"])]
    if shards["train"] < FEW_SHARDS and rows["bytes_out"].sum() > MANY_BYTES:
        few = _count(shards["train"], "training shard", "training shards")
        notes.append(f"{few}: data.order=lanes needs data.lanes no larger")
    return PackReport(
        out=out,
        source=printable(listing.name),
        splits=dict(zip(splits, images, strict=True)),
        shards=shards,
        bytes_in=int(rows["bytes_in"].sum()),
        bytes_out=int(rows["bytes_out"].sum()),
        classes=tuple(listing.classes),
        labels=int((listing.sources.label[rows["image"]] != NO_LABEL).sum()),
        channels=_histogram(rows["channels"]),
        bits=_histogram(rows["bits"]),
        usual=(usual >> 8, usual & 0xFF),
        fewer_bits=first_names(rows["bits"] < (usual & 0xFF)),
        short_side=(int(sides.min()), int(np.median(sides)), int(sides.max())),
        skipped=tuple((printable(name), reason) for name, reason in (*listing.skipped, *unusable)),
        excluded=tuple(pair for pair in listing.excluded if pair[1]),
        copies=_exact_duplicates(listing, rows, split, dropped),
        alike=_held_out_duplicates(listing, rows, split == splits.index("train")),
        pixel_cost=float(measured.mean()) if len(measured) else None,
        relative_cost=float(measured.mean()) / spread if spread > 0 else None,
        constant=int((deviation == 0).sum()),
        constant_images=first_names(deviation == 0),
        notes=tuple(notes),
    )


def summary_lines(packed: PackReport, suggests: bool = True) -> list[str]:
    """Lines for the user after packing; `suggests`: with the settings that suit the images."""
    about_images = _about_images(packed, suggests)
    return [*_about_files(packed), *_about_copies(packed), *about_images]


def to_json(packed: PackReport) -> dict:
    """Content of `pack.json`."""
    nested = {"copies": packed.copies._asdict(), "alike": packed.alike._asdict()}
    return {**packed._asdict(), **nested}


def _about_files(packed: PackReport) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for name, reason in packed.skipped:
        names.setdefault(reason, []).append(name)
    for reason, alike in list(names.items())[:MAX_LISTED]:
        if len(alike) == 1:
            yield f"skipped {alike[0]}: {reason}"
        else:
            yield f"skipped {len(alike):,} files, first {alike[0]}: {reason}"
    if more := sum(map(len, list(names.values())[MAX_LISTED:])):
        yield f"skipped {more:,} more files, see pack.json"
    yield from packed.notes
    parts = [
        (sum(packed.splits.values()), "packed"),
        (packed.copies.dropped, "exact copies"),
        (len(packed.skipped), "skipped"),
        *((number, reason) for reason, number in packed.excluded),
    ]
    if total := sum(number for number, _ in parts[1:]):
        counted = ", ".join(f"{number:,} {reason}" for number, reason in parts if number)
        yield f"{total + parts[0][0]:,} files found: {counted}"


def _about_copies(packed: PackReport) -> Iterator[str]:
    copies, alike = packed.copies, packed.alike
    if copies.files:
        action = "not packed" if copies.dropped else "--drop-duplicates skips them"
        yield f"{_count(copies.files, 'exact copy', 'exact copies')} ({action}), first:"
        yield from (f"  {' = '.join(group[:3])}" for group in copies.groups[:3])
    if copies.other_label:
        groups = _count(copies.other_label, "group", "groups")
        yield f"{groups} of exact copies with different labels"
    if copies.across:
        yield f"{_count(copies.across, 'group', 'groups')} of exact copies in several splits"
    if alike.images:
        images = _count(
            alike.images,
            "held-out image is a near duplicate",
            "held-out images are near duplicates",
        )
        yield (
            f"{images} of a training image, so that held-out figures will be too good: hold out "
            "a folder of other parts, places or patients (data.val=FOLDER), first:"
        )
        yield from (f"  {ours} ~ {theirs}" for ours, theirs, _ in alike.pairs[:3])


def _about_images(packed: PackReport, suggests: bool) -> Iterator[str]:
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
        change = f"pixels change by {packed.pixel_cost:.2f} of 255 on average"
        share = packed.relative_cost
        relative = f", {share:.1%} of the images' standard deviation" if share is not None else ""
        yield f"re-encoded: {before}; {change}{relative}"
    if packed.constant:
        blank = _count(packed.constant, "image has", "images have")
        first = ", ".join(packed.constant_images[:SHOWN])
        yield f"{blank} the same value in all pixels, and nothing to learn from: first {first}"
    if suggests and (settings := suggested_settings(*packed.usual)):
        yield f"to train on them as they are: {settings}"
    usual = packed.usual[0]
    # Gray images and colour images are read as each other.
    unlike = [n for own, n in packed.channels.items() if own != usual and {own, usual} != {1, 3}]
    if unlike:
        others = _count(sum(unlike), "image is", "images are")
        yield f"{others} skipped in training with data.in_chans={usual}: of other channels"
    yield from _about_fewer_bits(packed)
    most = max(packed.bits)
    if most > packed.usual[1]:
        deep = _count(packed.bits[most], f"image of {most} bits is", f"images of {most} bits are")
        yield f"{deep} skipped in training unless data.bits={most}"


def _about_fewer_bits(packed: PackReport) -> Iterator[str]:
    """Line on images of fewer bits than most, such as screenshots among radiographs."""
    usual = packed.usual[1]
    if fewer := sum(count for bits, count in packed.bits.items() if bits < usual):
        what = _count(fewer, "image has", "images have")
        yield (
            f"{what} fewer than {usual} bits: with data.bits={usual} white becomes "
            f"{2**usual - 1:,}, and where the others do not reach that, mean and deviation are "
            f"spoiled: leave them out (--exclude PATTERN), first:"
        )
        yield from (f"  {name}" for name in packed.fewer_bits[:SHOWN])


def suggested_settings(channels: int, bits: int) -> str:
    """Config overrides for such images; "" for 3 channels of 8 bits, the defaults."""
    settings = (f"data.bits={bits}" * (bits > 8), f"data.in_chans={channels}" * (channels != 3))
    return " ".join(filter(None, settings))


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _listed(histogram: Mapping[int, int]) -> str:
    if len(histogram) == 1:
        return str(next(iter(histogram)))
    return ", ".join(f"{value} ({count:,})" for value, count in histogram.items())


def _histogram(values: npt.NDArray[np.int64]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _about_classes(listing: Listing, packed: npt.NDArray[np.int64]) -> list[str]:
    """Note on a single class, or on classes without a packed image."""
    present = set(np.unique(listing.sources.label[packed]).tolist())
    missing = [name for number, name in enumerate(listing.classes) if number not in present]
    if len(listing.classes) == 1:
        return [f"one class only: {quoted(listing.classes)}"]
    if not missing:
        return []
    return [f"no image of {len(missing):,} of {len(listing.classes):,} classes: {quoted(missing)}"]


def _exact_duplicates(
    listing: Listing,
    rows: npt.NDArray[np.void],
    split: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.int64],
) -> ExactDuplicates:
    order = np.argsort(rows["image"], kind="stable")
    found = [order[group] for group in exact_duplicates(rows["digest"][order])]
    across = sum(len(np.unique(split[group])) > 1 for group in found)
    groups = [rows["image"][group].tolist() for group in found]
    by_original: dict[int, list[int]] = {}
    for copy, original in dropped.tolist():
        by_original.setdefault(original, [original]).append(copy)
    groups = sorted([*groups, *by_original.values()])
    labels = [set(listing.sources.label[group].tolist()) for group in groups]
    return ExactDuplicates(
        files=sum(len(group) - 1 for group in groups),
        dropped=len(dropped),
        other_label=sum(len(found) > 1 for found in labels),
        across=across,
        groups=tuple(
            tuple(printable(listing.name_of(image)) for image in group[:MAX_LISTED])
            for group in groups[:MAX_LISTED]
        ),
    )


def _held_out_duplicates(
    listing: Listing, rows: npt.NDArray[np.void], train: npt.NDArray[np.bool_]
) -> HeldOutDuplicates:
    order = np.argsort(rows["image"], kind="stable")
    ours, theirs = (order[rows["has_look"][order] & part[order]] for part in (train, ~train))
    # Exact duplicates are reported separately.
    words = rows["digest"][:, 0]
    maybe = train & np.isin(words, words[theirs])
    known = {digest.tobytes() for digest in rows["digest"][maybe]}
    theirs = np.array([i for i in theirs if rows["digest"][i].tobytes() not in known], np.int64)
    found = near_duplicates(rows["look"][ours], rows["look"][theirs])
    pairs = []
    for first, second, distance in list(zip(*found, strict=True))[:MAX_LISTED]:
        a, b = (int(rows["image"][i]) for i in (ours[first], theirs[second]))
        pairs.append((printable(listing.name_of(a)), printable(listing.name_of(b)), int(distance)))
    return HeldOutDuplicates(len(found.second), tuple(pairs))
