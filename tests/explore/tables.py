"""Small tables of embedded images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def jpeg(colour, size=(24, 24), format="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(file, format)
    return file.getvalue()


def colour_of(row: int) -> tuple[int, int, int]:
    """A colour of its own for each of 64 rows; neighbouring rows differ much."""
    return 40 + 60 * (row % 4), 40 + 60 * (row // 4 % 4), 40 + 60 * (row // 16 % 4)


def columns(count: int, seed: int = 0) -> dict[str, Any]:
    """Columns as `mae embed` writes them: three groups of vectors, the map is their first two."""
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.array([[4, 0, 1, 0], [-4, 1, 0, 1], [0, 5, 0, 0]], np.float32)
    vectors = centres[labels] + chance.normal(0, 0.7, (count, 4)).astype(np.float32)
    ids = [[(row + step) % count for step in (1, 2, 3)] for row in range(count)]
    return {
        "key": [f"image-{row:04d}" for row in range(count)],
        "shard": [f"data/train-{row % 2}.tar" for row in range(count)],
        "label": labels.tolist(),
        "class": [CLASSES[label] for label in labels],
        "vector": vectors,
        "image": [{"bytes": jpeg(colour_of(row)), "path": None} for row in range(count)],
        "x": vectors[:, 0],
        "y": vectors[:, 1],
        "neighbours": [{"ids": one, "distances": [0.1, 0.2, 0.3]} for one in ids],
        "duplicate_of": [row - 3 if row in (6, 9) else None for row in range(count)],
        "outlier": chance.random(count).astype(np.float32),
    }


def write(path: Path, content: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """Write columns; two-dimensional arrays become lists of one length."""
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {}
    for name, values in content.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.ravel())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        elif name == "duplicate_of" or (name == "label" and values[0] is None):
            arrays[name] = pa.array(values, pa.int64())
        else:
            arrays[name] = values if isinstance(values, pa.Array) else pa.array(values)
    table = pa.table(arrays)
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=50)
    return path
