"""A folder of images to WebDataset shards: `mae pack`."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import webdataset

from mae.data.manifest import EXTENSIONS
from mae.data.pillow import BadImage, open_image
from mae.errors import UserError
from mae.folders import new_folder
from mae.hashing import fold


class Source(NamedTuple):
    """An image file and its class number (None: unlabelled)."""

    path: Path
    label: int | None


class Folder(NamedTuple):
    """What a folder of images holds."""

    images: tuple[Source, ...]
    classes: tuple[str, ...]
    """names by class number; empty where there are no class folders"""
    skipped: tuple[tuple[Path, str], ...]
    """files that are no usable images, and why"""


class Packed(NamedTuple):
    """What `pack_folder` wrote."""

    train: int
    val: int
    shards: tuple[Path, ...]
    folder: Folder


def find_images(source: Path, labels: bool | None = None) -> Folder:
    """All JPEG and PNG files below `source`, by path; hidden files and folders are left out.

    `labels`: True makes every top-level folder a class, False none, None decides: classes where
    no image lies in `source` itself and there are at least two folders.
    Raises UserError where there is no image, or classes are asked for and some image has none.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    files = sorted(_visible_files(source))
    images: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    for path in files:
        reason = _unusable(path)
        if reason is None:
            images.append(path)
        else:
            skipped.append((path, reason))
    if not images:
        seen = sorted({path.suffix or path.name for path, _ in skipped})
        held = f"only {', '.join(seen[:5])}" if seen else "no files"
        raise UserError(f"{source}: no images: expected .{', .'.join(EXTENSIONS)}, found {held}")

    tops = [path.relative_to(source).parts[0] for path in images]
    loose = [path for path in images if path.parent == source]
    if labels is None:
        labels = not loose and len(set(tops)) > 1
    if not labels:
        return Folder(tuple(Source(path, None) for path in images), (), tuple(skipped))
    if loose:
        raise UserError(f"{loose[0]}: lies in no class folder (--no-labels packs without classes)")
    classes = tuple(sorted(set(tops)))
    number = {name: i for i, name in enumerate(classes)}
    labelled = (Source(path, number[top]) for path, top in zip(images, tops, strict=True))
    return Folder(tuple(labelled), classes, tuple(skipped))


def pack_folder(
    source: Path,
    out: Path,
    *,
    shard_size: int = 1000,
    val_fraction: float = 0.0,
    labels: bool | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write `out`/train-000000.tar … (and val-…), shuffled by `seed`, image bytes as they are.

    Beside them: `classes.txt`, where there are class folders, and `sources.tsv`, which tells
    each key's file.  The same folder and options give the same bytes.  `out` appears only whole.
    Raises UserError as `find_images` does, and where `out` has something in it already.
    """
    with new_folder(out) as part:
        folder = find_images(source, labels)
        order = np.argsort(fold(seed, np.arange(len(folder.images))), kind="stable")
        num_val = round(len(order) * val_fraction)
        if val_fraction and not 0 < num_val < len(order):
            raise UserError(f"--val {val_fraction:g}: is {num_val} of {len(order)} images")
        # File names are bytes: those that are no UTF-8 are written as they are.
        as_bytes = {"encoding": "utf-8", "errors": "surrogateescape"}
        with (part / "sources.tsv").open("w", **as_bytes) as sources:
            sources.write("key\tfile\n")
            done = 0
            for split, numbers in (("val", order[:num_val]), ("train", order[num_val:])):
                for shard, start in enumerate(range(0, len(numbers), shard_size)):
                    samples = [folder.images[i] for i in numbers[start : start + shard_size]]
                    keys = [f"{split}-{start + i:09d}" for i in range(len(samples))]
                    _write_shard(part / f"{split}-{shard:06d}.tar", keys, samples)
                    sources.writelines(
                        f"{key}\t{sample.path.relative_to(source)}\n"
                        for key, sample in zip(keys, samples, strict=True)
                    )
                    done += len(samples)
                    progress(done, len(order))
        if folder.classes:
            names = "".join(f"{name}\n" for name in folder.classes)
            (part / "classes.txt").write_text(names, **as_bytes)
    shards = tuple(sorted(out.glob("*.tar")))
    return Packed(len(order) - num_val, num_val, shards, folder)


def _visible_files(source: Path) -> Iterator[Path]:
    """All files below `source`, through linked folders too, without hidden files and folders."""
    for folder, folders, names in os.walk(source, followlinks=True):
        here = Path(folder).resolve()
        # A link to a folder above would be followed forever.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.is_relative_to(Path(folder, name).resolve())
        ]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _write_shard(path: Path, keys: Sequence[str], samples: Sequence[Source]) -> None:
    # Fixed owner and time: packing twice gives the same bytes.
    with webdataset.TarWriter(str(path), encoder=False, mtime=0, user="mae", group="mae") as tar:
        for key, sample in zip(keys, samples, strict=True):
            record = {"__key__": key, sample.path.suffix[1:].lower(): sample.path.read_bytes()}
            if sample.label is not None:
                record["cls"] = str(sample.label).encode()
            tar.write(record)


def _unusable(path: Path) -> str | None:
    if path.suffix[1:].lower() not in EXTENSIONS:
        return f"{path.suffix or 'no extension'}: not among .{', .'.join(EXTENSIONS)}"
    try:
        with open_image(path) as image:
            image.draft("L", (1, 1))  # JPEG at an eighth of its size: all is read, in less time
            image.load()
            return None
    except BadImage as error:
        return str(error)
