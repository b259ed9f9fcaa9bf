"""Segmentation masks among the files of a folder: pairs with images, by --masks PATTERN."""

import re
import shlex
from collections.abc import Sequence
from posixpath import splitext
from typing import NamedTuple

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.decoding.pixels import EXTENSIONS

NONE = "none"
"""value of --masks for images that are no masks, whatever their names"""
LIKELY = "likely"
"""stands for the pattern that files are likely to be masks by, if there is one"""
WORDS = ("mask", "masks", "seg", "segmentation", "label", "labels", "annotation", "annotations")
WORDS += ("gt", "groundtruth")
"""words that mark masks, as the end of a file's name or as the name of a folder"""
OTHER_SUFFIXES = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""endings of images whose masks may be .png files of the same name"""
SUFFIX = re.compile(rf"(.*)([-_. ](?:{'|'.join(WORDS)}))", re.IGNORECASE | re.DOTALL)


class Pairs(NamedTuple):
    """Files, divided into images and masks."""

    images: list[str]
    mask_of: dict[str, str]
    """mask by image"""
    unpaired: list[str]
    """masks without an image"""


def pair_masks(paths: Sequence[str], pattern: str, source: str) -> Pairs:
    """Divide `paths`: files that match `pattern` are masks, `*` stands for the image's name.

    `*_mask.png` lies beside its image; `masks/*.png` in a folder beside that of the images, or
    beside the images.  Raises UserError, naming `source`, for a pattern without a match, and for
    a mask of several images or an image with several masks.
    """
    where = f"{source}: --masks {shlex.quote(pattern)}"
    if pattern.count("*") != 1 or _extension(pattern) not in EXTENSIONS:
        raise UserError(
            f"{where}: write `*` once, for the image's name, and .png or .jpg at the end"
        )
    head, tail = map(re.escape, pattern.removeprefix("./").split("*"))
    name = ".*" if "/" in pattern else "[^/]*"
    fits = re.compile(f"((?:.*/)?){head}({name}){tail}", re.DOTALL).fullmatch
    named = {path: (found[1], found[2]) for path in paths if (found := fits(path))}
    if not named:
        raise UserError(f"{where}: matches none of {len(paths):,} files")
    images = [path for path in paths if path not in named]
    places: dict[tuple[str, str], list[str]] = {}
    for image in images:
        if _extension(image) in EXTENSIONS:
            for place in _places(image, "/" in pattern):
                places.setdefault(place, []).append(image)
    mask_of: dict[str, str] = {}
    unpaired = []
    for mask, place in named.items():
        found = places.get(place, [])
        if len(found) > 1:
            raise UserError(f"{where}: {_shown(mask, *found[:2])}: a mask of several images")
        if not found:
            unpaired.append(mask)
        elif mask_of.setdefault(found[0], mask) != mask:
            both = _shown(found[0], mask_of[found[0]], mask)
            raise UserError(f"{where}: {both}: an image with two masks")
    return Pairs(images, mask_of, unpaired)


def refuse_unnamed_masks(paths: Sequence[str], source: str) -> None:
    """Raise UserError where images seem to be masks of others, which --masks decides.

    Seen are names such as `x_mask.png` beside `x.jpg`, folders such as `masks/` beside `images/`,
    and a `.png` of the same name beside every image.
    """
    if found := likely_masks(paths, source):
        pattern, pairs = found
        image, mask = next(iter(pairs.mask_of.items()))
        quoted = shlex.quote(printable(pattern))
        raise UserError(
            f"{source}: {len(pairs.mask_of):,} files look like masks of images, first "
            f"{_shown(mask, image)}: --masks {quoted} packs them as masks, --exclude {quoted} "
            "leaves them out, --masks none packs them as images"
        )


def likely_masks(paths: Sequence[str], source: str) -> tuple[str, Pairs] | None:
    """Pattern of the files that are likely to be masks, and the pairs by it; None: there are none.

    Raises UserError where such a pattern gives a mask several images.
    """
    for pattern in _likely_patterns(paths):
        try:
            pairs = pair_masks(paths, pattern, source)
        except UserError as error:
            if pattern == "*.png":
                continue
            raise UserError(f"{error} (--masks none packs all files as images)") from None
        images = [path for path in pairs.images if _extension(path) in EXTENSIONS]
        certain = pattern != "*.png" or (len(images) > 1 and len(images) == len(pairs.mask_of))
        if pairs.mask_of and certain:
            return pattern, pairs
    return None


def _likely_patterns(paths: Sequence[str]) -> list[str]:
    """Patterns of masks, by the words in names of images and their folders."""
    split = [splitext(path) for path in paths]
    others = {stem for stem, suffix in split if suffix.lower() in OTHER_SUFFIXES}
    marked_folders: dict[str, list[str]] = {}
    found: dict[str, None] = {}
    for stem, suffix in split:
        if suffix[1:].lower() not in EXTENSIONS:
            continue
        folder, _, name = stem.rpartition("/")
        ends = [suffix]
        if name.lower().endswith(WORDS) and (marked := SUFFIX.fullmatch(name)):
            ends = [f"{marked[2]}{suffix}", suffix]
            found[f"*{ends[0]}"] = None
        if folder not in marked_folders:
            marked_folders[folder] = [part for part in folder.split("/") if part.lower() in WORDS]
        for part in marked_folders[folder]:
            found |= dict.fromkeys(f"{part}/*{end}" for end in ends)
        if suffix.lower() == ".png" and stem in others:
            found["*.png"] = None
    return list(found)


def _shown(*paths: str) -> str:
    return ", ".join(map(printable, paths))


def _places(image: str, in_folder: bool) -> list[tuple[str, str]]:
    """(folder, name) by which a mask finds `image`: without one folder of its path, or as it is."""
    stem = _stem(image)
    if not in_folder:
        folder, slash, name = stem.rpartition("/")
        return [(folder + slash, name)]
    parts = stem.split("/")
    places = []
    for i in range(len(parts)):
        before = "".join(f"{part}/" for part in parts[:i])
        places.append((before, "/".join(parts[i:])))
        if i + 1 < len(parts):
            places.append((before, "/".join(parts[i + 1 :])))
    return list(dict.fromkeys(places))


def _stem(path: str) -> str:
    return splitext(path)[0]


def _extension(path: str) -> str:
    return splitext(path)[1][1:].lower()
