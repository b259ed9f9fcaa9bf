"""Indexes of neighbouring shards as one part of divided work, which needs no index folder."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from mae.data.index import COLUMNS, IndexedShard, members_from_json, members_to_json
from mae.data.shard_index import ShardIndex


def pack_indexes(indexed: Sequence[IndexedShard]) -> bytes:
    """One or more indexes with the states of their shards, as safetensors."""
    indexes = [index for index, _ in indexed]
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.concatenate([getattr(index, name) for index in indexes]) for name in COLUMNS
    }
    columns["keys"] = np.frombuffer(b"".join(index.keys for index in indexes), np.uint8)
    rest = [
        (
            state,
            len(index.offset),
            len(index.keys),
            index.bytes,
            index.sha256,
            members_to_json(index),
        )
        for index, state in indexed
    ]
    columns["shards"] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    return save(columns)


def unpack_indexes(part: bytes) -> Iterator[IndexedShard]:
    """Indexes and states that `pack_indexes` has packed, in order."""
    columns = load(part)
    row = key = 0
    for state, samples, length, size, sha256, members in json.loads(columns["shards"].tobytes()):
        rows = slice(row, row + samples)
        own: dict[str, Any] = {name: columns[name][rows] for name in COLUMNS}
        index = ShardIndex(
            keys=columns["keys"][key : key + length].tobytes(),
            **own,
            bytes=size,
            sha256=sha256,
            **members_from_json(members),
        )
        yield IndexedShard(index, state)
        row, key = row + samples, key + length
