"""Write JPEG files that take as long to read and decode as photographs.

Noise with the spectrum of natural images (amplitude 1/f), 500 x 375 px, about 115 kB each; for
measurements of speed only.
Usage: python launch/photographs.py FOLDER COUNT
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (375, 500)
CANVAS = 1024
CANVASES = 8
QUALITY = 90


def canvas(rng: np.random.Generator) -> np.ndarray:
    """1/f noise with correlated channels as in photographs, uint8 [CANVAS CANVAS 3]."""
    across = np.fft.fftfreq(CANVAS)
    frequency = np.hypot(across[:, None], across[None, : CANVAS // 2 + 1])
    frequency[0, 0] = 1
    gray, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((CANVAS, CANVAS))) / frequency)
        for _ in range(4)
    )
    pixels = np.stack([gray + 0.3 * colour for colour in colours], axis=-1)
    return (128 + 50 * (pixels - pixels.mean()) / pixels.std()).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Write FOLDER/NUMBER.jpg, random windows of a few canvases."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    canvases = [canvas(rng) for _ in range(min(CANVASES, count))]
    height, width = SIZE
    for number in range(count):
        top, left = rng.integers(CANVAS - height), rng.integers(CANVAS - width)
        window = canvases[number % len(canvases)][top : top + height, left : left + width]
        Image.fromarray(window).save(folder / f"{number:06d}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
