"""Report of duplicates: counts and pairs, as JSON, lines and a sheet of pictures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.base.errors import SampleError
from mae.decoding.decode import decode_native
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.pictures.sheet import Cell, Sheet
from mae.similarity.compared_sets import Comparison, NamedSet
from mae.similarity.duplicates import KINDS
from mae.similarity.thumbnails import thumbnail

WORDS = {
    "bytes": "same file",
    "pixels": "same pixels, another file",
    "hash": "near duplicate, by difference hash",
    "mirrored": "near duplicate of the mirror image",
    "features": "near duplicate, by features",
}
"""kinds of duplicates, for people"""
SHORT = {
    "bytes": "same file",
    "pixels": "same pixels",
    "hash": "near",
    "mirrored": "mirrored",
    "features": "features",
}
"""the same, below pictures"""
PAIRS = 3
"""maximum number of pairs in a row of the sheet"""
PICTURE = 160
"""maximum side of a picture of the sheet in pixels"""


def section(one: Comparison) -> dict[str, Any]:
    """Counts and pairs of one comparison, for the JSON file."""
    found = one.found
    images, others = _described(one.own, found.image), _described(one.other, found.of)
    kinds, similarities = found.kind.tolist(), found.similarity.tolist()
    pairs = [
        {
            "kind": KINDS[kind],
            "similarity": round(similarity, 6),
            "image": image,
            "duplicate_of": other,
        }
        for kind, similarity, image, other in zip(kinds, similarities, images, others, strict=True)
    ]
    return {
        "comparison": one.title,
        "images": len(one.own.samples),
        "with_duplicate": len(pairs),
        "kinds": {name: int((found.kind == number).sum()) for number, name in enumerate(KINDS)},
        "other_class": sum(map(_is_of_other_class, pairs)),
        "pairs": pairs,
    }


def _described(data: NamedSet, rows: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Key, shard, number and class of each row."""
    manifest, samples = data.images.manifest, data.samples[rows]
    keys = manifest.keys_of(samples)
    for row, sample, key in zip(rows.tolist(), samples.tolist(), keys, strict=True):
        known = {"number": sample, "key": key, "shard": manifest.shard_name(sample)}
        found = data.class_of(row)
        yield known if found is None else {**known, "class": found}


def _is_of_other_class(pair: dict[str, Any]) -> bool:
    ours, theirs = (pair[name].get("class") for name in ("image", "duplicate_of"))
    # A name and a number cannot be compared.
    return ours is not None and type(ours) is type(theirs) and ours != theirs


def section_lines(one: dict[str, Any]) -> Iterator[str]:
    """Lines for the user on one comparison."""
    yield f"{one['comparison']}: {one['with_duplicate']:,} of {one['images']:,} images"
    for name, count in one["kinds"].items():
        if count:
            yield f"  {WORDS[name]:38}{count:>9,}"
    if one["other_class"]:
        yield f"  {'of another class than their duplicate':38}{one['other_class']:>9,}"


def pairs_sheet(title: str, comparisons: Sequence[Comparison], count: int) -> Sheet:
    """Sheet of at most `count` pairs of each kind of each comparison, the least alike first."""
    cells = []
    for one in comparisons:
        for kind in range(len(KINDS)):
            chosen = np.flatnonzero(one.found.kind == kind)
            chosen = chosen[np.argsort(one.found.similarity[chosen], kind="stable")][:count]
            for pair in chosen.tolist():
                similarity = float(one.found.similarity[pair])
                words = SHORT[KINDS[kind]] + (f" {similarity:.3f}" if kind > 1 else "")
                cells += [
                    _cell(one.own, int(one.found.image[pair]), words),
                    _cell(one.other, int(one.found.of[pair]), one.title),
                ]
    width = 2 * min(PAIRS, len(cells) // 2)
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    notes = [
        "Pairs of each kind, those that are least alike first: look where near duplicates end and "
        "images that merely resemble each other begin. Numbers are correlations of gray pictures "
        "of 16 by 16 pixels, or cosines of features."
    ]
    return Sheet(title, ["image", "its duplicate"] * (width // 2), rows, notes)


def _cell(data: NamedSet, row: int, words: str) -> Cell:
    sample, manifest = int(data.samples[row]), data.images.manifest
    try:
        extension = EXTENSIONS[manifest.kind.item(sample)]
        image = decode_native(data.images.reader.read(sample), extension)
    except BadImage as error:  # it has changed since
        raise SampleError(f"{manifest.name(sample)}: {error}") from None
    lines = [manifest.key(sample).rpartition("/")[2]]
    lines += [str(known) for known in [data.class_of(row)] if known is not None]
    lines += [words] * bool(words)
    return Cell(thumbnail(image, PICTURE), "\n".join(lines))
