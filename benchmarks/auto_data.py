"""Five small data sets for `benchmarks.auto_choices`: unlabelled, labelled and test shards."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SHORT_SIDE = 128
"""pixels to which the photographs are reduced beforehand: decoding is not what is measured"""
DIGITS = 500
"""digits at one end of the bundle, for tests: neighbours in it resemble each other"""
LABELLED = 2000
"""labelled images of CIFAR-10 and Fashion-MNIST, and as many test images"""
BLOCK = 12
"""neighbouring images that stay together where one set is divided: they may show one object"""

Sample = tuple[bytes, bytes]
"""an image file and its label"""
Parts = tuple[list[Sample], list[Sample], list[Sample]]
"""unlabelled, labelled and test samples"""


class Split(NamedTuple):
    """A data set: shards without and with labels."""

    train: str
    labelled: str
    test: str
    images: int
    labels: int


def splits(work: Path) -> dict[str, Split]:
    """The prepared data sets by name."""
    counts = json.loads((work / "counts.json").read_text())
    return {
        name: Split(
            *(str(work / name / part / "*.tar") for part in ("train", "labelled", "test")),
            images=own["train"],
            labels=own["labelled"],
        )
        for name, own in counts.items()
    }


def prepare(data: Path, work: Path, fresh: bool, fashion: Path | None) -> None:
    """Write each data set: unlabelled, labelled and test shards, photographs reduced.

    `fresh` takes other images than those on which the rules of `auto` were set.
    """
    parts = {
        "cifar10": cifar10(data / "cifar10", fresh),
        "clothing": clothing(data / "clothing", fresh),
        "tiles": tiles(data / "tiles", fresh),
        "digits": digits(fresh),
    }
    if fashion:
        parts["fashion"] = fashion_mnist(fashion)
    counts: dict[str, dict[str, int]] = {}
    for name, samples in parts.items():
        for part, own in zip(("train", "labelled", "test"), samples, strict=True):
            write(work / name / part, own)
            counts.setdefault(name, {})[part] = len(own)
    (work / "counts.json").write_text(json.dumps(counts))


def write(folder: Path, samples: list[Sample]) -> None:
    """One shard of the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "shard-000000.tar", "w") as tar:
        for number, (image, label) in enumerate(samples):
            kind = "png" if image.startswith(b"\x89PNG") else "jpg"
            for extension, content in (("cls", label), (kind, image)):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def cifar10(folder: Path, fresh: bool) -> Parts:
    """The first shard of 5,000, or the sixth; 2,000 test images of the first shard, or the last."""
    images = list(samples_of([sorted(folder.glob("train-*"))[5 if fresh else 0]]))
    test = list(samples_of([sorted(folder.glob("test-*"))[-1 if fresh else 0]]))
    return images, images[:LABELLED], test[:LABELLED]


def clothing(folder: Path, fresh: bool) -> Parts:
    """Its own division, or its last three training shards as the test images."""
    shards = sorted(folder.glob("train-*"))
    rest = sorted([*folder.glob("val-*"), *folder.glob("test-*")])
    if fresh:
        shards, rest = [*shards[:-3], *rest], shards[-3:]
    images, test = ([reduced(one) for one in samples_of(part)] for part in (shards, rest))
    return images, images, test


def tiles(folder: Path, fresh: bool) -> Parts:
    """Sound tiles to train on; of the others each second block is labelled, the rest are tests."""
    images = [reduced(one) for one in samples_of(sorted(folder.glob("test-*")))]
    odd, even = (
        [one for number, one in enumerate(images) if number // BLOCK % 2 == part] for part in (1, 0)
    )
    train = [reduced(one) for one in samples_of(sorted(folder.glob("train-*")))]
    return (train, odd, even) if fresh else (train, even, odd)


def digits(fresh: bool) -> Parts:
    """The last DIGITS as tests, or the first, which others have written."""
    images = list(handwritten_digits())
    if fresh:
        images = images[::-1]
    return images[:-DIGITS], images[:-DIGITS], images[-DIGITS:]


def fashion_mnist(folder: Path) -> Parts:
    """The first 5,000 training and 2,000 test images of Fashion-MNIST's four files, 28 x 28 px."""

    def first(part: str, count: int) -> list[Sample]:
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        pairs = zip(pixels[:count], labels[:count], strict=True)
        return [(png(image), str(label).encode()) for image, label in pairs]

    images = first("train", 5000)
    return images, images[:LABELLED], first("t10k", LABELLED)


def png(pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]") -> bytes:
    """The grey image as a file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def handwritten_digits() -> Iterator[Sample]:
    """scikit-learn's digits, 8 x 8 px, as PNG, in the order of the bundle."""
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    for pixels, label in zip(flat.reshape(-1, 8, 8), labels, strict=True):
        yield png((pixels * 255 / 16).round().astype(np.uint8)), str(label).encode()


def samples_of(shards: Sequence[Path]) -> Iterator[Sample]:
    """(image, label) of each sample."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            content = {one.name: tar.extractfile(one) for one in tar if one.isfile()}
            for name, file in content.items():
                if name.endswith(".jpg") and file:
                    label = content[name.removesuffix("jpg") + "cls"]
                    assert label is not None
                    yield file.read(), label.read()


def reduced(sample: Sample) -> Sample:
    """The sample with its image's short side at SHORT_SIDE."""
    image = Image.open(io.BytesIO(sample[0]))
    factor = SHORT_SIDE / min(image.size)
    size = tuple(max(SHORT_SIDE, round(side * factor)) for side in image.size)
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=92)  # pyrefly: ignore
    return out.getvalue(), sample[1]
