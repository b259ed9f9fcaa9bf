"""Tiles of a large image that are processed one by one, without seams.  NumPy alone."""

from collections.abc import Callable

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def continued(side: int, multiple: int) -> np.ndarray:
    """Indices of a side's pixels, continued by its last 4 over and over to a multiple.

    So each pixel is hidden in the same one of the 4 x 4 passes as its copies.
    """
    places = np.arange(side + -side % multiple)
    copies = (side - 4 + (places - side) % 4).clip(min=0)
    return np.where(places < side, places, copies)


def in_tiles(
    run: Run, images: np.ndarray, multiple: int, margin: int, tile: int = 256
) -> np.ndarray:
    """Result of `run` on images [b, c, h, w] of any size, computed in tiles of `tile` pixels.

    `run` takes arrays whose sides are multiples of `multiple`, and sees at most `margin` pixels
    far; both `margin` and `tile` are multiples of it, too.  Images are `continued`.
    """
    height, width = images.shape[2:]
    padded = images[:, :, continued(height, multiple)][..., continued(width, multiple)]
    result = np.empty_like(padded)
    for top in range(0, padded.shape[2], tile):
        for left in range(0, padded.shape[3], tile):
            above, before = min(top, margin), min(left, margin)
            rows = slice(top - above, top + tile + margin)
            columns = slice(left - before, left + tile + margin)
            done = run(np.ascontiguousarray(padded[:, :, rows, columns]))
            inner = done[:, :, above : above + tile, before : before + tile]
            result[:, :, top : top + tile, left : left + tile] = inner
    return result[:, :, :height, :width]
