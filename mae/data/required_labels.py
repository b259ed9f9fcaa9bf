"""Labels that a command needs: all of them, or a message that says where one is missing."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.folder_source import source_folder
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.sample_names import file_of


def require_labels(manifest: Manifest, key: str) -> npt.NDArray[np.int64]:
    """Labels of all samples, int64 [n]; UserError, naming `key`, where a sample has none."""
    return checked_labels(np.asarray(manifest.label), key, lambda row: missing_label(manifest, row))


def checked_labels(
    labels: npt.NDArray, key: str, missing: Callable[[int], str]
) -> npt.NDArray[np.int64]:
    """`labels` [n] as int64; UserError, naming `key` and the first row without a label.

    `missing`: description of that row, as `missing_label`.
    """
    unlabelled = np.flatnonzero(labels == NO_LABEL)
    if len(unlabelled):
        raise UserError(
            f"{key}: {len(unlabelled)} of {len(labels)} samples have {missing(int(unlabelled[0]))}"
        )
    return labels.astype(np.int64)


def missing_label(manifest: Manifest, sample: int) -> str:
    """Description of a sample without a label, the first of some, with the remedy where known."""
    shard = manifest.shards[manifest.shard_of(sample)]
    if folder := printable(source_folder(shard)):
        key = manifest.key(sample)
        return (
            f"no label, first {file_of(shard, key) or key} of {folder}: put its images into one "
            f"folder for each class: {folder}/cat/…, {folder}/dog/…"
        )
    faults = "; ".join(line for line in manifest.warnings() if "labels (.cls)" in line)
    return missing_member(manifest.name(sample)) + (f"; {faults}" if faults else "")


def missing_member(name: str) -> str:
    """Description of a sample without a `.cls`, the first of some, by its name."""
    return f"no label (.cls), first {name}"
