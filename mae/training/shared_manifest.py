"""Manifests of a run that one process of each machine makes, and that the others map."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

from mae.base.errors import UserError
from mae.base.locks import locked
from mae.data.index import DEFAULT_INDEX_DIR, short_hash
from mae.data.manifest import Manifest, ManifestSource, labels_digest
from mae.data.manifest_file import SUFFIX, discard_old, map_manifest
from mae.data.manifest_writer import write_manifest
from mae.storage.remote import canonical_address, is_remote


class _Outcome(NamedTuple):
    """Result of the process that made the manifests of a machine."""

    sources: Sequence[ManifestSource | None]
    """None: in the memory of that process only"""
    error: str = ""


def shared_manifests(
    accelerator: Accelerator, build: Callable[[], Sequence[Manifest]], index_dir: Path | None
) -> Sequence[Manifest]:
    """Manifests that `build` makes, called in the first process of each machine.

    The others map the files of the manifests; one made from the indexes of shards is written to
    `index_dir` for them (default: the cache), where its pages are shared.  Where that folder
    cannot be written, they call `build`, too.  All processes call this together.  Raises the
    UserError of `build` in all of them.
    """
    if accelerator.num_processes == 1:
        return build()
    made: Sequence[Manifest] = ()
    outcome = _Outcome(())
    own_error = None
    if accelerator.is_local_main_process:
        try:
            made = [_mapped(manifest, index_dir) for manifest in build()]
            outcome = _Outcome([manifest.source for manifest in made])
        except UserError as error:
            own_error, outcome = error, _Outcome((), str(error))
    outcomes: list[_Outcome] = gather_object([outcome])
    if own_error is not None:
        raise own_error
    if failed := [one.error for one in outcomes if one.error]:
        raise UserError(failed[0])
    if made:
        return made
    sources = outcomes[accelerator.process_index - accelerator.local_process_index].sources
    if None in sources:
        return build()
    return [map_manifest(source) for source in sources if source is not None]


def _mapped(manifest: Manifest, index_dir: Path | None) -> Manifest:
    """The manifest, mapped from a file; unchanged where that cannot hold it, or be written."""
    if manifest.source is not None:
        return manifest
    if any(canonical_address(shard) != shard for shard in manifest.shards):
        return manifest  # a file holds no signatures and passwords
    try:
        folder = (index_dir or DEFAULT_INDEX_DIR.expanduser()) / "manifests"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{manifest.fingerprint[:16]}-{_identity(manifest)}{SUFFIX}"
        source = ManifestSource(file, str(file))
        with locked(folder / f"{file.stem}.lock"):  # a file that others map is never replaced
            with suppress(UserError):
                return map_manifest(source)
            write_manifest(manifest, file)
            discard_old(folder, f"*{SUFFIX}", file)
        return map_manifest(source)
    except (OSError, RuntimeError, UserError):  # such as a folder that is not writable, or no home
        return manifest


def _identity(manifest: Manifest) -> str:
    """Hash of all that the fingerprint does not cover: places, whole contents and labels."""
    places = [one if is_remote(one) else str(Path(one).absolute()) for one in manifest.shards]
    contents = manifest.sha256.tobytes() + manifest.shard_bytes.tobytes()
    digest = hashlib.sha256(contents).hexdigest()
    return short_hash("\0".join([*places, *manifest.class_lists, digest, labels_digest(manifest)]))
