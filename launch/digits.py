"""Write scikit-learn's bundled handwritten digits as PNG files in class folders.

1,797 images of 8 x 8 px (UCI "Optical Recognition of Handwritten Digits").
Usage: python launch/digits.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

# The last images of the bundle, not random ones: its neighbouring images resemble each other, and
# raw pixels are 4 points more accurate on a random split.
TEST = 500


def main() -> None:
    """Write FOLDER/train/CLASS/NUMBER.png and FOLDER/test/CLASS/NUMBER.png."""
    folder = Path(sys.argv[1])
    flat, labels = load_digits(return_X_y=True)
    for number, (pixels, label) in enumerate(zip(flat.reshape(-1, 8, 8), labels, strict=True)):
        split = "test" if number >= len(labels) - TEST else "train"
        path = folder / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
