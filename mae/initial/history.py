"""Training behind weights, in a line: for the model card of what starts from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae.config.sections import Config, DataConfig
from mae.objectives.registry import declaration
from mae.training.checkpoint import Position


def history_of(config: Config, position: Position, init: Mapping[str, Any]) -> str:
    """Of a run up to a checkpoint; `init` is its init.json, empty where it has none."""
    optim, train = config.optim, config.train
    what = declaration(config.objective).history(config)
    rate = f"blr {optim.blr}" if optim.lr is None else f"lr {optim.lr}"
    text = (
        f"{what} of {data_names(config.data)}, {position.samples:,} images seen in "
        f"{position.step:,} steps of {train.batch_size} ({train.epochs:g} epochs planned), {rate}, "
        f"weight decay {optim.weight_decay}, seed {train.seed}"
    )
    if not config.init.from_:
        return f"{text}, from scratch"
    before = f" ({init['history']})" if init.get("history") else ""
    return f"{text}, from `{shown_source(config.init.from_)}`{before}"


def data_names(data: DataConfig) -> str:
    """The training shards, without the folders in which they lie."""
    patterns = [*data.train, *(pattern for part in data.mixture for pattern in part.shards)]
    return ", ".join(f"`{Path(pattern).name}`" for pattern in patterns)


def shown_source(source: str) -> str:
    """`timm:NAME` and `hf:ID` as they are; of a path what says nothing about this machine."""
    path = Path(source)
    if source.startswith(("timm:", "hf:")) or not path.name:
        return source
    if "checkpoints" in path.parts[1:]:  # RUN/checkpoints/step-…
        return "/".join(path.parts[path.parts.index("checkpoints", 1) - 1 :])
    return path.name
