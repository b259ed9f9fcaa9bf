"""Settings of a stream of shards: checked arguments, and those that a saved state must match."""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch.distributed
from pydantic import Field, ValidationError

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.config.types import NonNegative, Positive, Seed, describe_error
from mae.config.validation import conflicting_data
from mae.data.order import Mode
from mae.data.stream_positions import StreamPositions

OF_DATA = (
    *("window", "lanes", "repeats", "scale", "ratio", "flip", "oversized", "in_chans", "bits"),
    *("max_bad", "index_dir", "cache_dir", "cache_gb", "packed_dir", "allow_pipe"),
)
"""settings of `data` that are further arguments of a stream"""
OWN = ("last", "timeout_minutes")
"""further arguments of its own"""


class StreamSettings(DataConfig):
    """Arguments of `ShardStream`: settings of `data`, and its own."""

    order: Mode = "global"  # pyrefly: ignore  # one more than training has
    """as data.order, or sequential: not shuffled"""
    batch_size: Positive | None = None
    """images of a batch over all ranks; None: single samples"""
    seed: Seed = 0
    """seed of order, crops and transforms"""
    decode: bool = True
    """False: the files as they are"""
    epochs: Positive | None = None
    """passes over the data; None: without end"""
    last: Literal["whole", "cut"] = "whole"
    """last batch of `epochs`: completed by samples of the next epoch, or cut"""
    timeout_minutes: Annotated[float, Field(gt=0)] = 30.0
    """maximum number of minutes to wait for a worker"""
    rank: NonNegative = 0
    """number of this process among world_size"""
    world_size: Positive = 1
    """number of processes that share each batch"""

    def positions(self, epoch_length: int) -> StreamPositions:
        """Positions of the order that this rank receives."""
        total = self.epochs * epoch_length if self.epochs else None
        return StreamPositions(
            self.batch_size, self.rank, self.world_size, total, self.last == "cut"
        )

    def compared(self) -> dict[str, Any]:
        """Settings that samples and pixels depend on, for JSON."""
        names = ["seed", "order", "repeats", "img_size", "decode"]
        names += ["window"] if self.order in ("window", "lanes") else []
        names += ["lanes", "batch_size"] if self.order == "lanes" else []
        names += ["in_chans", "bits"] if self.decode else []
        names += ["scale", "ratio", "flip", "oversized"] if self.img_size else []
        weights = [part.weight for part in self.mixture] or [1.0]
        return {**self.model_dump(mode="json", include={*names}), "weights": weights}


def check_settings(arguments: Mapping[str, Any], further: Mapping[str, Any]) -> StreamSettings:
    """Settings from the named arguments of a stream and its further ones.

    `rank` and `world_size` None: `launched_ranks`.  Raises UserError, all mistakes on one line.
    """
    known = {name: value for name, value in further.items() if name in (*OF_DATA, *OWN)}
    wrong = [f"{name}: unknown{_meant(name)}" for name in further if name not in known]
    values = {**_data_sets(arguments["shards"]), **arguments, **known}
    values |= _ranks(values["rank"], values["world_size"])
    del values["shards"]
    try:
        settings = StreamSettings.model_validate(values)
    except ValidationError as error:
        found = {str(one["loc"][0]): one for one in reversed(error.errors())}
        wrong += [f"{name}: {describe_error(one)}" for name, one in found.items()]
    else:
        wrong += _conflicts(settings)
        if not wrong:
            return settings
    raise UserError(f"ShardStream: {'; '.join(wrong)}")


class Ranks(NamedTuple):
    """Number of a process, and the number of processes."""

    rank: int
    world_size: int


def launched_ranks() -> Ranks:
    """Ranks of torch's process group, else of the launcher (RANK, WORLD_SIZE), else one process.

    Raises UserError where one variable is missing or no number.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if not any(values.values()):
        return Ranks(0, 1)
    try:
        return Ranks(*(int(value or "") for value in values.values()))
    except ValueError:
        found = ", ".join(f"{name}={value or ''}" for name, value in values.items())
        raise UserError(
            f"ShardStream: the environment has {found}: set both, or give rank and world_size"
        ) from None


def _ranks(rank: int | None, world_size: int | None) -> dict[str, int]:
    if (rank is None) != (world_size is None):
        raise UserError("ShardStream: give both rank and world_size, or neither")
    if rank is None or world_size is None:
        return launched_ranks()._asdict()
    return {"rank": rank, "world_size": world_size}


def _data_sets(shards: Any) -> dict[str, Any]:
    """`shards` as data.train, or as data.mixture where they are weights by pattern."""
    if not isinstance(shards, Mapping):
        return {"train": [os.fspath(one) for one in ([shards] if _is_path(shards) else shards)]}
    parts = [{"shards": os.fspath(one), "weight": weight} for one, weight in shards.items()]
    return {"mixture": parts}


def _is_path(shards: Any) -> bool:
    return isinstance(shards, str | os.PathLike)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, (*OF_DATA, *OWN, *StreamSettings.model_fields), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _conflicts(settings: StreamSettings) -> Iterator[str]:
    batch_size, world = settings.batch_size, settings.world_size
    if settings.rank >= world:
        yield f"rank: {settings.rank}, but world_size is {world}: ranks count from 0"
    if batch_size is not None and batch_size % world:
        yield f"batch_size: {batch_size} does not divide among {world} ranks"
    if settings.img_size and not settings.decode:
        yield "img_size: crops of files that are not decoded: leave out decode=False"
    if settings.img_size and settings.bits == 32:
        yield "img_size: arrays of floats (bits=32) come whole, as they are: leave it out"
    if settings.order == "lanes" and batch_size is None:
        yield "order: lanes divide a batch: give batch_size, or choose another order"
    elif settings.order == "lanes" and settings.lanes % world:
        yield f"lanes: {settings.lanes} do not divide among {world} ranks"
    # Lanes, and the data sets of a mixture, end their epochs at different positions.
    if settings.last == "cut" and settings.order == "lanes":
        yield "last: cut would lose and repeat samples of lanes: choose another order, or whole"
    if settings.last == "cut" and len(settings.mixture) > 1:
        yield "last: cut would lose and repeat samples of a mixture: one stream each, or whole"
    # Single samples come as they are, whatever the number of their views.
    for key, message in conflicting_data(settings, batch_size or settings.repeats):
        if batch_size is not None or key != "data.lanes":
            yield f"{key}: {message}".replace("data.", "").replace("train.", "")
