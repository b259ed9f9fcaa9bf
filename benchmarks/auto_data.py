"""Four small data sets for `benchmarks.auto_choices`: unlabelled, labelled and test shards."""

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
"""last digits of the bundle, for tests: neighbours in it resemble each other"""
BLOCK = 12
"""neighbouring images that stay together where one set is divided: they may show one object"""


class Split(NamedTuple):
    """One of the three data sets: shards without and with labels."""

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


def prepare(data: Path, work: Path) -> None:
    """Write the four data sets: unlabelled, labelled and test shards, photographs reduced."""
    counts: dict[str, dict[str, int]] = {}

    def write(name: str, part: str, samples: list[tuple[bytes, bytes]]) -> None:
        folder = work / name / part
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "shard-000000.tar", "w") as tar:
            for number, (image, label) in enumerate(samples):
                kind = "png" if image.startswith(b"\x89PNG") else "jpg"
                for extension, content in (("cls", label), (kind, image)):
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        counts.setdefault(name, {})[part] = len(samples)

    cifar = data / "cifar10"
    images = list(samples_of(sorted(cifar.glob("train-*"))[:1]))
    write("cifar10", "train", images)
    write("cifar10", "labelled", images[:2000])
    write("cifar10", "test", list(samples_of(sorted(cifar.glob("test-*"))[:1]))[:2000])
    clothing = data / "clothing"
    images = [reduced(one) for one in samples_of(sorted(clothing.glob("train-*")))]
    write("clothing", "train", images)
    write("clothing", "labelled", images)
    rest = sorted([*clothing.glob("val-*"), *clothing.glob("test-*")])
    write("clothing", "test", [reduced(one) for one in samples_of(rest)])
    tiles = data / "tiles"
    write("tiles", "train", [reduced(one) for one in samples_of(sorted(tiles.glob("train-*")))])
    images = [reduced(one) for one in samples_of(sorted(tiles.glob("test-*")))]
    for part, odd in (("labelled", 0), ("test", 1)):
        own = [one for number, one in enumerate(images) if number // BLOCK % 2 == odd]
        write("tiles", part, own)
    digits = list(handwritten_digits())
    write("digits", "train", digits[:-DIGITS])
    write("digits", "labelled", digits[:-DIGITS])
    write("digits", "test", digits[-DIGITS:])
    (work / "counts.json").write_text(json.dumps(counts))


def handwritten_digits() -> Iterator[tuple[bytes, bytes]]:
    """scikit-learn's digits, 8 x 8 px, as PNG, in the order of the bundle."""
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    for pixels, label in zip(flat.reshape(-1, 8, 8), labels, strict=True):
        out = io.BytesIO()
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(out, "PNG")
        yield out.getvalue(), str(label).encode()


def samples_of(shards: Sequence[Path]) -> Iterator[tuple[bytes, bytes]]:
    """(image, label) of each sample."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            content = {one.name: tar.extractfile(one) for one in tar if one.isfile()}
            for name, file in content.items():
                if name.endswith(".jpg") and file:
                    label = content[name.removesuffix("jpg") + "cls"]
                    assert label is not None
                    yield file.read(), label.read()


def reduced(sample: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The sample with its image's short side at SHORT_SIDE."""
    image = Image.open(io.BytesIO(sample[0]))
    factor = SHORT_SIDE / min(image.size)
    size = tuple(max(SHORT_SIDE, round(side * factor)) for side in image.size)
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=92)  # pyrefly: ignore
    return out.getvalue(), sample[1]
