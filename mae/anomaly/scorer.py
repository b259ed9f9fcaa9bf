"""Interface of scorers: statistics of normal patches, and the distance of a patch from them.

Each is fitted from `Statistics` that parts of the data give and that are merged, so memory does not
grow with the number of images, and several processes get the numbers of one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from mae.anomaly.patch_features import Maps
from mae.base.progress import Progress

Statistics = dict[str, npt.NDArray]
"""arrays by name"""

ScoreMaps = Float[Tensor, "b gh gw"]


class Scorer(ABC):
    """Distance of patches from normal ones."""

    name: ClassVar[str]
    is_positional: ClassVar[bool] = False
    """patches of one position are compared: images need as many patches each"""
    is_trained: ClassVar[bool] = False
    """`train` follows the statistics"""

    @abstractmethod
    def collect(self, maps: Maps, samples: Sequence[int], seed: int) -> Statistics:
        """Statistics of a batch of normal images or tiles, which have the numbers `samples`."""

    def merge(self, one: Statistics, other: Statistics) -> Statistics:
        """Statistics of both; unless a scorer's say otherwise, their sums."""
        return {name: one[name] + other[name] for name in one}

    @abstractmethod
    def finish(self, statistics: Statistics) -> Mapping[str, Tensor]:
        """Parameters of `score`.  Raises UserError for too few images."""

    def train(
        self,
        parameters: Mapping[str, Tensor],
        batches: Callable[[int], Iterator[Maps]],
        layers: int,
        seed: int,
        show: Progress,
    ) -> Mapping[str, Tensor]:
        """Parameters of `score`, trained; `parameters` are those of `finish`.

        `batches`: number of steps → features of as many batches of normal images or tiles;
        `layers`: as in `PatchFeatures`; `show` is called with the steps.
        """
        return parameters

    @abstractmethod
    def score(self, parameters: Mapping[str, Tensor], maps: Maps) -> ScoreMaps:
        """Score of every patch; the larger, the less normal."""
