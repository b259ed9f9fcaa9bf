"""Autocorrelation of the noise in images, apart from what they show.

Blocks with the least power are taken as flat.  Their cosine transform has the same power in every
place for white noise; what is left of an image's content lies at the lowest frequencies, whose
power is replaced by that of the next higher ones.  Covariances of neighbouring pixels follow from
the powers.  Choosing by total power leaves the estimate unbiased for white Gaussian noise, whose
ratios of powers do not depend on their sum.  Correlations are underestimated by a tenth, since
those of different frequencies are left out, and by more where they reach far.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import SampleError, UserError
from mae.data.images import Images
from mae.data.statistics import some_samples
from mae.data.transform import center_crop

SIDE = 8
"""side of a block in pixels"""
FLAT = 0.05
"""share of the blocks that are taken as flat"""
LOWEST = 3
"""frequencies below this sum (row + column) are content"""
MOST_PIXELS = 384
"""maximum side of the centre of an image that is measured"""
IMAGES = 32
"""maximum number of images that are measured"""
LEAST_STEPS = 1.0
"""noise below so many steps of the integers is rounding alone"""
LEAST_SHARE = 0.005
"""noise below this share of an image's standard deviation is none"""

Array = npt.NDArray[np.float64]


class NoiseMeasure(NamedTuple):
    """Noise of images; the medians over them."""

    std: float
    """standard deviation, of pixels in [0, 1]"""
    autocorrelation: float
    """correlation of neighbouring pixels' noise, in rows or columns, whichever is larger"""


def measure_noise(images: Images) -> NoiseMeasure | None:
    """Noise of some images of a data set; None where they have none.

    Raises UserError where no image is readable.
    """
    found, readable = [], 0
    for sample in some_samples(images.manifest, IMAGES):
        try:
            pixels = images[sample]
        except SampleError:
            continue
        readable += 1
        _, height, width = pixels.shape
        size = min(height, MOST_PIXELS), min(width, MOST_PIXELS)
        found.append(noise_of(center_crop(pixels, size).numpy().astype(np.float64)))
    if not readable:
        raise UserError(f"{images.manifest.shard_name(0)}: no readable image among {IMAGES}")
    measured = np.array([one for one in found if one is not None])
    if 2 * len(measured) < readable:
        return None
    middle = np.median(measured, axis=0)
    white = 2**images.bits - 1
    correlated = middle[:, 1:].ravel()
    largest = correlated[np.abs(correlated).argmax()]
    return NoiseMeasure(float(middle[:, 0].max() / white), float(largest))


def noise_of(pixels: Array) -> Array | None:
    """Noise of an image of integers [c h w]: a row for each of its `planes`, [p 3].

    A row holds the standard deviation, and the correlations of neighbours in columns and in rows.
    None for an image without noise in some plane, or smaller than a block.
    """
    if min(pixels.shape[1:]) < SIDE:
        return None
    rows = []
    for plane in planes(pixels):
        powers = _flat_powers(plane)
        if powers is None:
            return None
        std = np.sqrt(powers.mean())
        if std < max(LEAST_STEPS, LEAST_SHARE * pixels.std(axis=(1, 2)).mean()):
            return None
        rows.append((std, *correlations(powers)))
    return np.array(rows)


def planes(pixels: Array) -> Array:
    """Channels, and the differences of each from the next, in which colour is subsampled."""
    return np.concatenate([pixels, pixels[:-1] - pixels[1:]])


def correlations(powers: Array) -> tuple[float, float]:
    """Correlation of neighbours below and beside each other, from the powers of a block."""
    neighbours = neighbour_weights()
    total = powers.sum()
    along_rows = (powers * neighbours[None, :]).sum() / total
    along_columns = (powers * neighbours[:, None]).sum() / total
    return float(along_columns), float(along_rows)


def _flat_powers(plane: Array) -> Array | None:
    """Mean power of the flattest blocks at each frequency, without content; [SIDE SIDE]."""
    half = SIDE // 2
    blocks = np.lib.stride_tricks.sliding_window_view(plane, (SIDE, SIDE))
    blocks = blocks[::half, ::half].reshape(-1, SIDE * SIDE)
    transform = np.kron(cosine_basis(), cosine_basis())
    powers = ((blocks @ transform.T) ** 2).reshape(-1, SIDE, SIDE)
    sums = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    kept = sums >= LOWEST
    total = powers[:, kept].mean(axis=1)
    # Clipped blocks, black or white, have no noise to measure.
    powers, total = powers[total > LEAST_STEPS**2], total[total > LEAST_STEPS**2]
    if not len(total):
        return None
    count = max(1, round(FLAT * len(total)))
    mean = powers[np.argpartition(total, count - 1)[:count]].mean(axis=0)
    mean[~kept] = mean[sums == LOWEST].mean()
    return mean


def cosine_basis() -> Array:
    """Orthonormal cosine transform (DCT-II): rows are frequencies, [SIDE SIDE]."""
    n = np.arange(SIDE)
    basis = np.cos(np.pi * n[:, None] * (n + 0.5) / SIDE) * np.sqrt(2 / SIDE)
    basis[0] /= np.sqrt(2)
    return basis


def neighbour_weights() -> Array:
    """Mean product of neighbours in each frequency's row of `cosine_basis`, times SIDE."""
    basis = cosine_basis()
    return (basis[:, :-1] * basis[:, 1:]).mean(axis=1) * SIDE
