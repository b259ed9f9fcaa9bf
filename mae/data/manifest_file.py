"""Manifest file: the index of a whole data set in one safetensors file, mapped and not loaded.

`mae index SHARDS --out FILE` and `mae pack` write it; `data.train=FILE` reads it, from a disk or a
server.  Processes of a machine share its pages; numbers of samples are read where they are used.

Tensors with a value per sample: `offset`, `size`, `crc`, `label`, `kind`; the sample keys of each
shard, joined by NUL, one shard after the other, in `keys`.  Of the shards: `first` (number of each
one's first sample, and of all samples), `key_start` (the same in bytes of `keys`), `shard_bytes`,
`sha256`, `names` with `name_start` (relative to the file's folder, or addresses) and `members`
(JSON: what is not read).  The metadata hold the fingerprint and two checksums: of the tensors
of the shards, checked whenever the file is opened, and of all others, checked where that takes
less than about a second (`ROWS_CHECKED`), after a download, and by `mae verify`.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.base.errors import StorageError, UserError
from mae.base.files import new_file, require_regular
from mae.base.locks import locked
from mae.base.printable import printable
from mae.base.redaction import redacted
from mae.data.columns import Blobs, chunks, map_array
from mae.data.index import COLUMNS, index_folder, short_hash
from mae.data.labels import NO_LABEL
from mae.data.manifest import Fingerprint, Manifest, ManifestSource
from mae.data.passed_over import PassedOver, Reason
from mae.data.shard_names import ShardNames
from mae.data.shards import exists
from mae.decoding.pixels import EXTENSIONS
from mae.storage.remote import at_most, canonical_address, download, is_remote, stat

FORMAT = "mae manifest 1"
SUFFIX = ".safetensors"
ROWS_CHECKED = 20_000_000
"""number of samples up to which the checksum of their rows is verified at each start"""
MAX_HEADER = 1 << 20
CHUNK = 1 << 20
SHARDS_LOOKED_AT = 64
"""number of local shards whose presence is checked when a manifest is opened"""
MAX_BYTES = 1 << 40
"""largest manifest that is downloaded"""
TYPES = {
    "I64": ("<i8", ("offset", "first", "key_start", "shard_bytes", "name_start")),
    "U32": ("<u4", ("size", "crc")),
    "I32": ("<i4", ("label",)),
    "U8": ("u1", ("kind", "keys", "sha256", "names", "members")),
}
"""type in safetensors → numpy's, and the tensors of that type, in the order of the file"""
ROWS = (*COLUMNS, "keys")
TABLE = ("first", "key_start", "shard_bytes", "name_start", "sha256", "names", "members")
"""tensors of samples and of shards, in the order of their checksums"""
RECORDED = ("format", "fingerprint", "former_fingerprint", "rows")
"""metadata that the checksum `table` covers"""
MAX_AGE = 30 * 86400
"""seconds after which another version of a downloaded or shared manifest is deleted"""


def is_manifest(location: str) -> bool:
    """True for the name of a manifest file."""
    path = location.partition("?")[0] if is_remote(location) else location
    return path.lower().endswith(SUFFIX)


def open_manifest(
    location: str, index_dir: Path | None = None, is_checked: bool = False
) -> Manifest:
    """Map a manifest file; a remote one is downloaded when its server has another version.

    `is_checked`: verify the rows in any case.  Raises UserError where the file is damaged, of a
    newer format, or no manifest; StorageError where it cannot be read or fetched.
    """
    if is_remote(location):
        file = _downloaded(location, index_dir)
        return map_manifest(ManifestSource(file, location), is_checked)
    require_regular(Path(location))
    manifest = map_manifest(ManifestSource(Path(location), location), is_checked)
    # A look at some shards, not at all: there may be a million, on slow storage.
    for number in np.unique(np.linspace(0, len(manifest.shards) - 1, SHARDS_LOOKED_AT, dtype=int)):
        shard = manifest.shards[number]
        if not is_remote(shard) and not exists(Path(shard)):
            raise UserError(f"{location}: lists {shard}, which is not there: keep both together")
    return manifest


def map_manifest(source: ManifestSource, is_checked: bool = False) -> Manifest:
    """Map a manifest file that is on this machine.  Raises as `open_manifest`."""
    shown = redacted(source.location)
    arrays, metadata = _map_tensors(source.file, shown)
    try:
        if _is_sound(arrays, metadata, is_checked):
            return _checked(_manifest(arrays, metadata, source), is_checked)
    except (LookupError, ValueError, TypeError):
        pass
    raise UserError(f"{shown}: is damaged (checksum): make it again with mae index --out")


def _is_sound(
    arrays: Mapping[str, npt.NDArray], metadata: Mapping[str, str], is_checked: bool
) -> bool:
    fingerprints = (metadata["fingerprint"], metadata["former_fingerprint"])
    if not all(re.fullmatch("[0-9a-f]{64}", one) for one in fingerprints):
        return False
    if table_digest(digest_of(arrays, TABLE), metadata) != metadata["table"] or not _fits(arrays):
        return False
    if not is_checked and len(arrays["offset"]) > ROWS_CHECKED:
        return True
    return digest_of(arrays, ROWS) == metadata["rows"] and _rows_are_sound(arrays)


def _checked(manifest: Manifest, is_checked: bool) -> Manifest:
    """The manifest; raises UserError where it lists what it must not, ValueError where it lies."""
    location = manifest.source.location if manifest.source else ""
    if is_remote(location) and isinstance(manifest.shards, ShardNames):
        names = manifest.shards.names.content.tobytes()
        if any(scheme in names for scheme in (b"file:", b"local:")):
            raise UserError(f"{redacted(location)}: lists files of this machine")
    if is_checked:
        fingerprint = Fingerprint()
        for number, shard in enumerate(manifest.shards):
            fingerprint.add(shard, manifest.index_of(number))
        if fingerprint.hexdigest() != manifest.fingerprint:
            raise ValueError
    return manifest


def _manifest(
    arrays: Mapping[str, npt.NDArray], metadata: Mapping[str, str], source: ManifestSource
) -> Manifest:
    members = {number: rest for number, *rest in json.loads(arrays["members"].tobytes())}
    shards = len(arrays["shard_bytes"])
    listed = [members.get(number, ((), (), "")) for number in range(shards)]
    columns: dict[str, Any] = {name: arrays[name] for name in COLUMNS}
    return Manifest(
        shards=ShardNames(Blobs(arrays["names"], arrays["name_start"]), source.location),
        keys=Blobs(arrays["keys"], arrays["key_start"]),
        first=arrays["first"][:-1],
        shard_bytes=arrays["shard_bytes"],
        sha256=arrays["sha256"].reshape(-1, 32),
        fingerprint=metadata["fingerprint"],
        datasets=(shards,),
        former_fingerprint=metadata["former_fingerprint"],
        passed_over=tuple(_passed_over(found) for found, _, _ in listed),
        others=tuple(_others(found) for _, found, _ in listed),
        class_lists=tuple(str(found) for _, _, found in listed),
        source=source,
        **columns,
    )


def _passed_over(found: Sequence[Any]) -> tuple[PassedOver, ...]:
    return tuple(
        PassedOver(Reason(*map(printable, reason)), int(count), printable(first))
        for reason, count, first in found
    )


def _others(found: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    return tuple((printable(extension), int(count)) for extension, count in found)


def _map_tensors(file: Path, shown: str) -> tuple[dict[str, npt.NDArray], dict[str, str]]:
    """Tensors and metadata of a manifest file.  Raises UserError where it is none."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length) if length <= min(size, MAX_HEADER) else b"")
        metadata = header.pop("__metadata__")
        kind = metadata["format"]
        if kind != FORMAT and kind.startswith(FORMAT.rpartition(" ")[0]):
            raise UserError(f"{shown}: is of another version ({kind}, read is {FORMAT}): update")
        types = {name: kind for kind, (_, names) in TYPES.items() for name in names}
        ends = max(of["data_offsets"][1] for of in header.values())
        if header.keys() != types.keys() or kind != FORMAT or 8 + length + ends != size:
            raise ValueError
        arrays = {}
        for name, kind in types.items():
            dtype, (start, end) = TYPES[kind][0], header[name]["data_offsets"]
            count, rest = divmod(end - start, np.dtype(dtype).itemsize)
            known = {"dtype": kind, "shape": [count], "data_offsets": [start, end]}
            if rest or start < 0 or header[name] != known:
                raise ValueError
            empty: npt.NDArray = np.empty(0, dtype)
            place = (file, 8 + length + start, dtype, count)
            arrays[name] = map_array(*place) if count else empty
    except OSError as error:
        raise StorageError(f"{shown}: cannot be read: {error.strerror}") from None
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{shown}: is no manifest, or was cut: expected a file of mae index --out"
        ) from None
    return arrays, metadata


def table_digest(tensors: str, metadata: Mapping[str, str]) -> str:
    """sha256 over that of the tensors of the shards and the recorded properties."""
    recorded = [metadata.get(name, "") for name in RECORDED]
    return hashlib.sha256("\n".join([tensors, *recorded]).encode()).hexdigest()


def digest_of(arrays: Mapping[str, npt.NDArray], names: Sequence[str]) -> str:
    """sha256 over the bytes of these tensors, one after the other."""
    digest = hashlib.sha256()
    for name in names:
        for part in chunks(arrays[name]):
            digest.update(part.tobytes())
    return digest.hexdigest()


def _fits(arrays: Mapping[str, npt.NDArray]) -> bool:
    """True where the tables of the shards fit each other and the columns."""
    shards, samples = len(arrays["shard_bytes"]), len(arrays["offset"])
    starts = {"first": samples, "key_start": len(arrays["keys"])}
    starts["name_start"] = len(arrays["names"])
    for name, end in starts.items():
        start = arrays[name]
        if len(start) != shards + 1 or start[0] or start[-1] != end or (np.diff(start) < 0).any():
            return False
    names = Blobs(arrays["names"], arrays["name_start"])
    whole = names.content.tobytes()
    return (
        len(arrays["sha256"]) == 32 * shards
        and all(len(arrays[column]) == samples for column in COLUMNS)
        and not any(end in whole for end in (b"\0", b"\n", b"\r"))
        and not (b"pipe:" in whole and any(name.startswith(b"pipe:") for name in names))
    )


def _rows_are_sound(arrays: Mapping[str, npt.NDArray]) -> bool:
    """True where all images lie in their shards and have a key, and kinds and labels exist."""
    for number, keys in enumerate(Blobs(arrays["keys"], arrays["key_start"])):
        samples = int(arrays["first"][number + 1] - arrays["first"][number])
        if samples != (keys.count(b"\0") + 1 if keys or samples else 0):
            return False
    for start in range(0, len(arrays["offset"]), CHUNK):
        rows = slice(start, start + CHUNK)
        offset, size, kind, label = (
            arrays[name][rows] for name in ("offset", "size", "kind", "label")
        )
        numbers = np.arange(start, start + len(offset))
        ends = arrays["shard_bytes"][np.searchsorted(arrays["first"], numbers, "right") - 1]
        inside = (offset >= 0) & (offset <= ends - size)
        if not (inside.all() and (kind < len(EXTENSIONS)).all() and (label >= NO_LABEL).all()):
            return False
    return True


def _downloaded(location: str, index_dir: Path | None) -> Path:
    """Local copy of a remote manifest, of the version that its server has now."""
    remote = stat(location)
    name = short_hash(canonical_address(location))
    version = short_hash(f"{remote.size} {remote.version}")
    folder = index_folder(location, index_dir)
    file = folder / f"{name}-{version}{SUFFIX}"
    try:
        if remote.version and file.exists():
            return file
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{name}.lock"):  # one process of a machine downloads
            if not file.exists() or not remote.version:
                with new_file(file) as part, part.open("w+b") as target:
                    download(location, target, remote.size, check=at_most(MAX_BYTES, location))
                    map_manifest(ManifestSource(part, location), is_checked=True)
                discard_old(folder, f"{name}-*{SUFFIX}", file)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be used: {error.strerror}") from None
    return file


def discard_old(folder: Path, pattern: str, kept: Path) -> None:
    """Delete files older than MAX_AGE, but for `kept`: younger ones may be mapped by other runs."""
    for other in folder.glob(pattern):
        with suppress(OSError):
            if other != kept and time.time() - other.stat().st_mtime > MAX_AGE:
                other.unlink()
