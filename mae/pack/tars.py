"""Existing shards as a source of `mae pack`: images and labels; other members are skipped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mae.base.errors import UserError
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest, build_manifest, require_labels
from mae.data.passed_over import kinds_of_files
from mae.data.shard_reader import ShardReader
from mae.decoding.pixels import EXTENSIONS
from mae.pack.class_list import unescaped
from mae.pack.listing import Listing, Source, fingerprint
from mae.storage.cache import ShardCache
from mae.storage.remote import is_remote


def list_tars(
    patterns: Sequence[str], labels: bool | None = None, cache: ShardCache | None = None
) -> Listing:
    """List the samples of the shards that match `patterns`.

    Raises UserError as `build_manifest`, and with `labels=True` where samples have no label.
    """
    manifest = build_manifest(patterns, "mae pack", cache=cache)
    if labels:
        require_labels(manifest, "--labels")
    numbers = manifest.label.tolist() if labels is not False else [NO_LABEL] * len(manifest)
    return Listing(
        name=" ".join(patterns),
        sources=[
            Source(sample, EXTENSIONS[kind], None if label == NO_LABEL else label)
            for sample, (kind, label) in enumerate(zip(manifest.kind, numbers, strict=True))
        ],
        reader=TarReader(manifest, cache),
        sizes=manifest.size.astype(np.int64),
        fingerprint=fingerprint([manifest.fingerprint, *manifest.shards], manifest.label),
        splits=(("train", len(manifest)),),
        classes=_class_names(manifest) if labels is not False else (),
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


def _class_names(manifest: Manifest) -> tuple[str, ...]:
    """Class names from the `classes.txt` beside the shards; empty where it has too few lines."""
    folders = {Path(shard).parent for shard in manifest.shards if not is_remote(shard)}
    if len(folders) != 1 or any(map(is_remote, manifest.shards)):
        return ()
    file = folders.pop() / "classes.txt"
    try:
        lines = file.read_text("utf-8", "surrogateescape").split("\n")[:-1]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    return tuple(map(unescaped, lines)) if manifest.label.max() < len(lines) else ()
