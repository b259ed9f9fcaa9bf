"""Statistics of stored latents: moments of each channel, use of the codes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.latents.arrays import STD, Array, Kind

Sums = npt.NDArray[np.float64]
DEAD = 0.01
"""standard deviation of a channel, as a share of that of all, below which it is all but constant"""


class Moments:
    """Sums over images: of floats by channel, or the uses of each code."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds
        self.sums: dict[str, Sums] = {}
        """name of the array → [3 c]: count, sum and sum of squares of each channel, or [k]: uses of
        each code"""
        if kinds[""].num_codes:
            levels = {name: kind for name, kind in kinds.items() if "flip" not in name.split(".")}
            self.sums = {name: np.zeros(kind.num_codes) for name, kind in levels.items()}
        else:
            self.sums = {"": np.zeros(3 * kinds[""].shape[0])}

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Add arrays [b …] as they are stored; a posterior counts with its variance."""
        for name, sums in self.sums.items():
            values = arrays[name]
            if self.kinds[name].num_codes:
                sums += np.bincount(values.ravel(), minlength=len(sums))
                continue
            by_channel = np.moveaxis(values.astype(np.float64), 1, 0).reshape(values.shape[1], -1)
            squares = np.square(by_channel).sum(axis=1)
            if STD in arrays:
                spread = np.moveaxis(arrays[STD].astype(np.float64), 1, 0)
                squares += np.square(spread).reshape(len(squares), -1).sum(axis=1)
            count = np.full(len(squares), by_channel.shape[1])
            sums += np.concatenate([count, by_channel.sum(axis=1), squares])

    def state(self) -> dict[str, list[float]]:
        """The sums, for JSON."""
        return {name: sums.tolist() for name, sums in self.sums.items()}

    def merge(self, state: Mapping[str, list[float]]) -> None:
        """Add the `state` of other images."""
        for name, sums in state.items():
            self.sums[name] += sums

    def report(self, scale: Mapping[str, Any]) -> dict[str, Any]:
        """Statistics for latents.json; `scale`: diffusers' settings that are given."""
        if self.kinds[""].num_codes:
            return {"codes": {name: _use(sums) for name, sums in self.sums.items()}}
        count, total, squares = self.sums[""].reshape(3, -1)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
        overall_mean = total.sum() / count.sum()
        overall = np.sqrt(max(squares.sum() / count.sum() - overall_mean**2, 0.0))
        return {
            "scaling_factor": 1 / max(overall, 1e-12),
            "latents_mean": mean.tolist(),
            "latents_std": std.tolist(),
            "overall_mean": overall_mean,
            "overall_std": overall,
            "constant_channels": np.flatnonzero(std < DEAD * overall).tolist(),
            **{key: value for key, value in scale.items() if value is not None},
            "scale_is_given": bool(scale),
        }


def _use(uses: Sums) -> dict[str, float]:
    """Share of the codes in use, their perplexity, and number."""
    shares = uses[uses > 0] / max(uses.sum(), 1)
    return {
        "num_codes": len(uses),
        "usage": float((uses > 0).mean()),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }
