"""Small surfaces with and without defects, in shards."""

import io
import tarfile

import numpy as np
from PIL import Image

SIZE = 48


def picture(number, defect):
    """Smooth surface with noise; a defect is a dark spot."""
    chance = np.random.default_rng(number)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    values = 130 + 60 * np.sin(3 * x + 2 * y) + chance.normal(0, 4, (SIZE, SIZE))
    if defect:
        top, left = chance.integers(4, SIZE - 14, 2)
        values[top : top + 10, left : left + 10] -= 70
    return values.clip(0, 255).astype(np.uint8)


def defect(number):
    """Mask of the dark spot of `picture`."""
    return picture(number, False).astype(int) - picture(number, True) > 35


def png(values):
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def shard(path, first, classes, *, masks=False, hides_labels=False, looks=None):
    """Shard of pictures, one per class.

    `masks`: with those of the defects; `hides_labels`: the shard says that all are normal;
    `looks`: 1 for each picture with a defect (default: as its class).
    """
    files = {}
    for number, label in enumerate(classes, first):
        has_defect = label if looks is None else looks[number - first]
        files[f"{number}.png"] = png(picture(number, has_defect))
        files[f"{number}.cls"] = b"0" if hides_labels else b"%d" % label
        if masks and label:
            files[f"{number}.mask.png"] = png(defect(number).astype(np.uint8) * 255)
    tar_of(path, files)


def tar_of(path, files):
    """Write a shard of files, by name; returns its path."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def fit_words(data, out, *options):
    """Command that fits a detector `out` to the shards `normal` and `calibration` of `data`."""
    words = ["anomaly", "fit", str(out), "--normal", f"{data}/normal.tar"]
    words += ["--calibration", f"{data}/calibration.tar", "--channels", "1", "--workers", "0"]
    return [*words, *options]
