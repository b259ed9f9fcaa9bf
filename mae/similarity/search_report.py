"""Report of a search: the images found for each query, as JSON and as lines."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.data.manifest import Manifest
from mae.evaluation.features import Matrix
from mae.similarity.features import Vectors


def query_section(
    name: str, rows: npt.NDArray[np.int64], cosine: Matrix, among: Vectors, manifest: Manifest
) -> dict[str, Any]:
    """Query called `name` and what was found for it, for the JSON file.

    `rows` [k] of `among`, which are samples of `manifest`, nearest first, and their `cosine` [k].
    """
    found = []
    names = manifest.class_names
    for row, similarity in zip(rows.tolist(), cosine.tolist(), strict=True):
        sample, label = int(among.samples[row]), int(among.labels[row])
        known = {} if label < 0 else {"label": label}
        known |= {"class": names[label]} if 0 <= label < len(names) else {}
        found.append(
            {
                "number": sample,
                "key": manifest.key(sample),
                "shard": manifest.shard_name(sample),
                "similarity": similarity,
                **known,
            }
        )
    return {"query": " ".join(name.splitlines()), "found": found}


def query_lines(section: dict[str, Any]) -> Iterator[str]:
    """Lines for the user on one query."""
    yield section["query"]
    for place, one in enumerate(section["found"], 1):
        shown = str(one.get("class", one.get("label", "")))
        yield f"  {place:>3}  {one['similarity']:6.3f}  {shown:16.16}  {one['key']}"
