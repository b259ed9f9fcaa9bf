"""How the images of weights were normalised, and whether a run does the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.base.files import read_json
from mae.config.sections import DataConfig
from mae.initial.weights import Normalisation

SAME = 1e-3
"""mean and std that differ by no more are the same: some are rounded to three decimals"""


def normalisation(described: Any, mean: str = "mean", std: str = "std") -> Normalisation | None:
    """What timm's pretrained_cfg says; None where it says nothing that can be read."""
    if not isinstance(described, Mapping):
        return None
    try:
        return Normalisation(
            tuple(float(number) for number in described[mean]),
            tuple(float(number) for number in described[std]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def in_preprocessor(path: Path) -> Normalisation | None:
    """What the preprocessor_config.json of transformers says; None as above, or without one."""
    return normalisation(read_json(path), "image_mean", "image_std")


def told_difference(trained: Normalisation | None, data: DataConfig) -> list[str]:
    """A note where a run normalises otherwise than its first weights know it."""
    if trained is None or (_same(trained.mean, data.mean) and _same(trained.std, data.std)):
        return []
    return [
        f"trained with data.mean {list(trained.mean)}, data.std {list(trained.std)}; "
        f"this run has {list(data.mean)}, {list(data.std)}"
    ]


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= SAME for a, b in zip(one, other, strict=True)
    )
