"""Photographs with synthetic defects of several sizes, with masks, in shards.

python -m benchmarks.anomaly_defects 'clothing/val-*.tar' --out defects

Writes normal.tar, calibration.tar and test.tar; in the last every second photograph has an ellipse
near its middle, darker or lighter than what it covers.
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae.data.images import Images
from mae.data.indexing import build_manifest

SIZES = (0.03, 0.06, 0.12)
"""diameters of the defects, as shares of the shorter side"""
STRENGTH = 0.45
"""share by which pixels become darker, or nearer to white"""

Pixels = npt.NDArray[np.uint8]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the shards."""
    parser = argparse.ArgumentParser(prog="benchmarks.anomaly_defects", description=__doc__)
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--counts", type=int, nargs=3, default=[160, 100, 150])
    args = parser.parse_args(argv)
    images = Images(build_manifest(args.shards, "shards", None, None), 3, 8)
    args.out.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(len(images.manifest)).tolist()
    for name, count in zip(("normal", "calibration", "test"), args.counts, strict=True):
        chosen, order = order[:count], order[count:]
        with tarfile.open(args.out / f"{name}.tar", "w") as tar:
            for place, number in enumerate(chosen):
                pixels = images[number].permute(1, 2, 0).numpy().copy()
                files = {"cls": b"0"}
                if name == "test" and place % 2:
                    mask = damage(pixels, SIZES[place // 2 % len(SIZES)], place)
                    files = {"cls": b"1", "mask.png": _png(mask.astype(np.uint8) * 255)}
                files["png"] = _png(pixels)
                for extension, data in files.items():
                    member = tarfile.TarInfo(f"{number:05}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return 0


def damage(pixels: Pixels, size: float, seed: int) -> npt.NDArray[np.bool_]:
    """Draw a defect on `pixels` [h w 3]; returns its mask [h w]."""
    chance = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    radius = size * min(height, width) / 2
    stretch = chance.uniform(0.7, 1.4)
    middle = chance.uniform(0.35, 0.65, 2) * (height, width)
    y, x = np.mgrid[:height, :width]
    mask = ((y - middle[0]) * stretch) ** 2 + ((x - middle[1]) / stretch) ** 2 < radius**2
    target = 255.0 if pixels[mask].mean() < 100 else 0.0
    pixels[mask] = (pixels[mask] * (1 - STRENGTH) + target * STRENGTH).astype(np.uint8)
    return mask


def _png(values: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
