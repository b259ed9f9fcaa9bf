"""Existing shards as a source of `mae pack`: images and labels; other members are skipped."""

from collections.abc import Sequence

import numpy as np

from mae.data.class_matching import with_class_names
from mae.data.indexing import build_manifest
from mae.data.manifest import Manifest
from mae.data.passed_over import kinds_of_files
from mae.data.required_labels import require_labels
from mae.data.shard_reader import ShardReader
from mae.decoding.pixels import EXTENSIONS
from mae.pack.image_sources import Sources
from mae.pack.listing import Listing, fingerprint
from mae.storage.cache import ShardCache


def list_tars(
    patterns: Sequence[str], labels: bool | None = None, cache: ShardCache | None = None
) -> Listing:
    """List the samples of the shards that match `patterns`.

    Raises UserError as `build_manifest`, as `with_class_names` unless `labels` is False, and with
    `labels=True` where samples have no label.
    """
    manifest = build_manifest(patterns, "mae pack", cache=cache)
    if labels:
        require_labels(manifest, "--labels")
    if labels is not False:
        manifest = with_class_names(manifest, "mae pack")
    label, kinds = np.asarray(manifest.label), np.asarray(manifest.kind)
    sources = Sources(range(len(manifest)), (EXTENSIONS[kind] for kind in kinds))
    return Listing(
        name=" ".join(patterns),
        sources=sources if labels is False else sources.with_labels(label),
        reader=TarReader(manifest, cache),
        sizes=np.asarray(manifest.size, np.int64),
        fingerprint=fingerprint([manifest.fingerprint, *manifest.shards], label),
        splits=(("train", len(manifest)),),
        classes=manifest.class_names,
        notes=_notes_on_skipped_members(manifest, labels is not False),
    )


class TarReader:
    """Reader of samples by their number in a manifest."""

    def __init__(self, manifest: Manifest, cache: ShardCache | None) -> None:
        self.manifest = manifest
        self.reader = ShardReader(manifest, cache)

    def read(self, reference: int) -> bytes:
        """Bytes of the image, verified by its checksum.

        Raises SampleError and StorageError as ShardReader.
        """
        return self.reader.read(reference)

    def name(self, reference: int) -> str:
        """`SHARD: key KEY`."""
        return self.manifest.name(reference)


def _notes_on_skipped_members(manifest: Manifest, labels: bool) -> tuple[str, ...]:
    """Lines on the members that are not packed."""
    notes = [line for line in manifest.warnings() if labels or "labels (.cls)" not in line]
    if others := manifest.other_members():
        notes.append(f"not packed: {kinds_of_files(others)}")
    return tuple(notes)
