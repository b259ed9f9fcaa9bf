"""Copies of images among those of a detector: byte for byte, or nearly equal.

Images of one product look alike.  So near copies need two signs: coarse difference hashes within a
few bits, and fine structures that agree much better than those of two images of the set do.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.data.manifest import Manifest
from mae.pack.duplicates import near_duplicates
from mae.pack.examine import difference_hash, luma

NO_LOOK = 0
"""coarse hash of images with too little structure for one"""
SIDE, COARSE = 32, 8
"""sides of the reduced image whose structures are compared, and of what is subtracted before"""
WORDS = 1 + SIDE * SIDE // 64
"""words of 64 bits: the coarse hash, then a bit for each pixel of the structures"""
PAIRS = 1000
"""random pairs from which the usual agreement is estimated"""
CLOSE = 0.5
"""largest distance of near copies, as a share of the median one of random pairs"""


class Looks(NamedTuple):
    """Marks of images by which copies are known."""

    content: npt.NDArray[np.int64]
    """[n] length and CRC-32 of the file"""
    look: npt.NDArray[np.int64]
    """[n WORDS], see `look_of`"""

    def table(self) -> npt.NDArray[np.int64]:
        """[n 1+WORDS], to be stored."""
        return np.concatenate([self.content[:, None], self.look], 1)


class Copies(NamedTuple):
    """Images of a second set that are in a first one."""

    exact: int
    """number of images equal byte for byte"""
    near: int
    """number of other images that are nearly equal"""
    flags: npt.NDArray[np.bool_]
    """[m] images of the second set that are either"""
    first: tuple[int, int]
    """the first such image, by its row, and its twin's row in the first set; (-1, -1): none"""


def look_of(image: Tensor) -> npt.NDArray[np.int64]:
    """Coarse difference hash, and signs of the fine structures, of an integer image [c h w]."""
    levels = torch.iinfo(image.dtype)
    gray = luma(image.float() / levels.max)
    small = F.adaptive_avg_pool2d(gray[None], (SIDE, SIDE))
    base = F.interpolate(F.adaptive_avg_pool2d(small, (COARSE, COARSE)), (SIDE, SIDE))
    bits = np.packbits((small > base).flatten().numpy())
    coarse = np.array([difference_hash(gray, levels.bits) or NO_LOOK], np.uint64)
    return np.concatenate([coarse.view(np.int64), bits.view(np.int64)])


def read_looks(table: npt.NDArray[np.int64]) -> Looks:
    """The inverse of `Looks.table`."""
    return Looks(table[:, 0], np.ascontiguousarray(table[:, 1:]))


def looks_of(
    manifest: Manifest, samples: npt.NDArray[np.int64], looks: npt.NDArray[np.int64]
) -> Looks:
    """Marks of the samples of a manifest, of which `look_of` gave `looks`."""
    size, crc = np.asarray(manifest.size)[samples], np.asarray(manifest.crc)[samples]
    return Looks((size.astype(np.int64) << 32) | crc.astype(np.int64), looks)


def find_copies(first: Looks, second: Looks) -> Copies:
    """Images of the second set that are in the first."""
    exact = np.isin(second.content, first.content)
    coarse = [one.look[:, 0] for one in (first, second)]
    ours, theirs = (np.flatnonzero(one != NO_LOOK) for one in coarse)
    found = near_duplicates(coarse[0][ours].view(np.uint64), coarse[1][theirs].view(np.uint64))
    rows, twins = theirs[found.second], ours[found.first]
    close = distance(first.look[twins], second.look[rows]) < CLOSE * usual_distance(first)
    rows, twins = rows[close], twins[close]
    near = np.zeros(len(exact), bool)
    near[rows] = True
    pair = (-1, -1)
    if exact.any():
        row = int(exact.argmax())
        pair = row, int((first.content == second.content[row]).argmax())
    elif near.any():
        pair = int(rows[0]), int(twins[0])
    return Copies(int(exact.sum()), int((near & ~exact).sum()), exact | near, pair)


def distance(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Differing bits of the fine structures of pairs [n WORDS]."""
    differing = np.ascontiguousarray(first[:, 1:] ^ second[:, 1:]).view(np.uint64)
    return np.bitwise_count(differing).sum(1).astype(np.int64)


def usual_distance(looks: Looks) -> float:
    """Median distance of random pairs of different images; 0 for a single image."""
    count = len(looks.look)
    if count < 2:
        return 0.0
    chance = np.random.default_rng(0)
    one = chance.integers(0, count, PAIRS)
    other = (one + chance.integers(1, count, PAIRS)) % count
    return float(np.median(distance(looks.look[one], looks.look[other])))
