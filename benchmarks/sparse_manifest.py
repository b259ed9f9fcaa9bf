"""Manifests of any size without their disk space: rows that nobody reads are holes in the file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mae.data.index import COLUMNS
from mae.data.manifest_file import FORMAT, TABLE, TYPES, digest_of, table_digest
from mae.data.manifest_writer import manifest_header
from mae.data.shard_index import ShardIndex


def write_sparse(
    file: Path, shard: str, index: ShardIndex, shards: int, samples: npt.NDArray[np.int64]
) -> None:
    """Write a manifest that lists one real shard `shards` times, with the rows of `samples` alone.

    `shard`: its name, relative to the folder of `file`.  All keys are empty.  The table of shards
    is whole, so the manifest opens like any other of more than ROWS_CHECKED samples.
    """
    each, name = len(index.offset), shard.encode()
    numbers = np.arange(shards + 1, dtype="<i8")
    table = {
        "first": numbers * each,
        "key_start": numbers * (each - 1),  # the NULs between empty keys
        "shard_bytes": np.full(shards, index.bytes, "<i8"),
        "name_start": numbers * len(name),
        "sha256": np.frombuffer(bytes.fromhex(index.sha256) * shards, "u1"),
        "names": np.frombuffer(name * shards, "u1"),
        "members": np.frombuffer(b"[]", "u1"),
    }
    types = {name: np.dtype(dtype) for dtype, names in TYPES.values() for name in names}
    lengths = {name: array.nbytes for name, array in table.items()}
    lengths |= {name: types[name].itemsize * shards * each for name in COLUMNS}
    lengths["keys"] = shards * (each - 1)
    metadata = {"format": FORMAT, "fingerprint": "0" * 64, "former_fingerprint": "0" * 64}
    metadata["rows"] = "not known"
    metadata["table"] = table_digest(digest_of(table, TABLE), metadata)
    header = manifest_header(lengths, metadata)
    place = len(header)
    with file.open("wb") as target:
        target.write(header)
        for name, dtype in types.items():
            if name in table:
                target.seek(place)
                target.write(table[name].tobytes())
            elif name in COLUMNS:
                values = getattr(index, name).astype(dtype)
                for sample in samples.tolist():
                    target.seek(place + sample * dtype.itemsize)
                    target.write(values[sample % each].tobytes())
            place += lengths[name]
        target.truncate(place)
