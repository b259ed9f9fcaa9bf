"""Write scikit-learn's bundled handwritten digits as PNG files in class folders.

1,797 images of 8 x 8 px from 44 people (UCI "Optical Recognition of Handwritten Digits").
Usage: python launch/digits.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

# The bundle keeps the order of its source, writer by writer: the last 500 images are other
# people's hands, so testing on them is honest.
TEST = 500


def main() -> None:
    """FOLDER/train/CLASS/NUMBER.png and FOLDER/test/…"""
    folder = Path(sys.argv[1])
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if number >= len(digits.target) - TEST else "train"
        path = folder / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
