"""Synthetic fluorescence images of 16 bits, and classical denoisers that know their noise.

Scenes are spots over dim cells, filaments, and membranes, blurred as by a microscope.  The camera
is that of scientific CMOS sensors: Poisson noise of the electrons, Gaussian noise of the readout.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

Array = npt.NDArray[np.float64]

GAIN, OFFSET = 2.0, 100.0
"""levels per electron, and level without light"""
READOUT = 1.6
"""standard deviation of the readout in electrons"""
BACKGROUND = 5.0
"""electrons everywhere"""
PEAK = 20.0, 80.0
"""electrons of the brightest pixel, lowest and highest, drawn for each image"""
POINT_SPREAD = 1.3
"""standard deviation of the blur in pixels"""


class Picture(NamedTuple):
    """Image with its truth, in levels of the camera."""

    noisy: npt.NDArray[np.uint16]
    clean: Array


def picture(kind: str, seed: int, side: int) -> Picture:
    """Picture [side side] of a scene of SCENES."""
    generator = np.random.default_rng([seed, sorted(SCENES).index(kind)])
    light = SCENES[kind](generator, side)
    peak = np.exp(generator.uniform(*np.log(PEAK)))
    electrons = BACKGROUND + peak * light / light.max()
    levels = generator.poisson(electrons) + generator.normal(0, READOUT, electrons.shape)
    noisy = (GAIN * levels + OFFSET).round().clip(0, 65_535).astype(np.uint16)
    return Picture(noisy, GAIN * electrons + OFFSET)


def noise_std(clean: Array) -> float:
    """Root mean square of the noise in levels."""
    electrons = (clean - OFFSET) / GAIN
    return GAIN * float(np.sqrt(electrons.mean() + READOUT**2))


# Scenes


def spots(generator: np.random.Generator, side: int) -> Array:
    """Vesicles of very different brightness in dim cells."""
    cells = ndimage.gaussian_filter(generator.normal(size=(side, side)), 12)
    cells = ndimage.gaussian_filter((cells > cells.std() / 2).astype(float), 2)
    points = np.zeros((side, side))
    count = side * side // 250
    places = generator.integers(0, side, (2, count))
    np.add.at(points, tuple(places), generator.lognormal(0, 0.7, count) * cells[tuple(places)])
    sharp = ndimage.gaussian_filter(points, POINT_SPREAD)
    return sharp / sharp.max() + 0.15 * cells


def filaments(generator: np.random.Generator, side: int) -> Array:
    """Threads that bend, as microtubules."""
    lines = np.zeros((side, side))
    for _ in range(side // 10):
        length = int(generator.integers(side // 2, 2 * side))
        bends = ndimage.gaussian_filter1d(generator.normal(0, 0.1, length), 8).cumsum()
        angle = generator.uniform(0, 2 * np.pi) + bends
        rows, columns = (
            generator.uniform(0, side) + 0.5 * turn(angle).cumsum() for turn in (np.sin, np.cos)
        )
        seen = (rows > 0) & (rows < side - 1) & (columns > 0) & (columns < side - 1)
        splat(lines, rows[seen], columns[seen], generator.uniform(0.4, 1))
    return ndimage.gaussian_filter(lines, POINT_SPREAD)


def splat(image: Array, rows: Array, columns: Array, weight: float) -> None:
    """Add points at fractional places, by bilinear weights."""
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    for row, column, share in (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    ):
        np.add.at(image, (top + row, left + column), weight * share)


def membranes(generator: np.random.Generator, side: int) -> Array:
    """Walls between cells of an epithelium, with a dim inside."""
    count = max(8, side * side // 1500)
    grid = np.mgrid[:side, :side].astype(float)
    wobble = [ndimage.gaussian_filter(generator.normal(size=(side, side)), 6) for _ in range(2)]
    grid += [8 * one / one.std() / 4 for one in wobble]
    centres = generator.uniform(-10, side + 10, (count, 2))
    near = spatial.KDTree(centres).query(grid.reshape(2, -1).T, k=2)[0]
    walls = np.exp(-(((near[:, 1] - near[:, 0]) / 1.5) ** 2)).reshape(side, side)
    uneven = ndimage.gaussian_filter(generator.normal(size=(side, side)), 20)
    walls *= 1 + 0.3 * uneven / uneven.std()
    return ndimage.gaussian_filter(walls.clip(0), POINT_SPREAD) + 0.08


SCENES: Mapping[str, Callable[[np.random.Generator, int], Array]] = {
    "spots": spots,
    "filaments": filaments,
    "membranes": membranes,
}

METADATA = {"pixel size": "0.108 micron", "channel": "GFP", "exposure": "20 ms"}
"""description in each file"""


def tiff(pixels: npt.NDArray[np.uint16]) -> bytes:
    """TIFF of 16 bits with a description and a resolution, as microscopes write it."""
    import tifffile

    file = io.BytesIO()
    words = "\n".join(f"{name}={value}" for name, value in METADATA.items())
    tifffile.imwrite(
        file, pixels, description=words, resolution=(92_593, 92_593), resolutionunit="CENTIMETER",
        software="microscope", photometric="minisblack", metadata=None,
    )  # fmt: skip
    return file.getvalue()


# Classical denoisers


def stabilised(levels: Array) -> Array:
    """Generalised Anscombe transform of levels, whose noise then has a standard deviation of 1.

    Murtagh et al. 1995, with the camera's parameters, which are taken as known.
    """
    electrons = (levels - OFFSET) / GAIN
    return 2 * np.sqrt((electrons + 3 / 8 + READOUT**2).clip(min=0))


def unstabilised(values: Array) -> Array:
    """Levels of stabilised values: exact unbiased inverse (Mäkitalo and Foi 2013, equation 10)."""
    d = values.clip(min=2 * np.sqrt(3 / 8 + READOUT**2))
    root = np.sqrt(3 / 2)
    electrons = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return GAIN * (electrons - READOUT**2).clip(min=0) + OFFSET


class Filter(NamedTuple):
    """Denoiser with a grid of settings, the best of which is chosen on the test images."""

    run: Callable[..., Array]
    """(image, *setting) → image"""
    settings: Sequence[tuple[Any, ...]]
    stabilises: bool = True
    """works on stabilised values"""

    def __call__(self, noisy: npt.NDArray[np.uint16], setting: tuple[Any, ...]) -> Array:
        """Denoised image in levels."""
        levels = noisy.astype(np.float64)
        if not self.stabilises:
            return self.run(levels, *setting)
        return unstabilised(self.run(stabilised(levels), *setting))


def non_local_means(image: Array, strength: float, patch: int) -> Array:
    """Non-local means of an image whose noise has a standard deviation of 1."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(image, patch_size=patch, patch_distance=8, h=strength, sigma=1.0)


def total_variation(image: Array, weight: float) -> Array:
    """Total variation (Chambolle 2004)."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight)


def bm3d(image: Array, sigma: float) -> Array:
    """Block matching and 3D filtering (Dabov et al. 2007), by the authors' package."""
    from bm3d import bm3d as run  # pyrefly: ignore[missing-import]

    return run(image, sigma)


FILTERS: Mapping[str, Filter] = {
    "Gaussian filter": Filter(ndimage.gaussian_filter, [(0.7,), (1.0,), (1.3,), (1.6,)], False),
    "total variation": Filter(total_variation, [(0.6,), (0.9,), (1.2,), (1.6,), (2.2,)]),
    "non-local means": Filter(
        non_local_means, [(h, patch) for patch in (5, 7) for h in (0.5, 0.6, 0.7, 0.8)]
    ),
    "BM3D": Filter(bm3d, [(1.0,), (1.2,)]),
}
"""name → denoiser; all but the Gaussian filter see stabilised values"""
