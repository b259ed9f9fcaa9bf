"""Shard indexes: position, size, checksum and label of each image, cached beside the shard.

An index is made by reading the shard once and cached (`.mae-index/NAME.tar.safetensors` beside the
shard, or below `data.index_dir`).  A cached index is used while the shard's size and version
(modification time, or the server's version) are unchanged.  Where only the version differs, as
after a copy that kept no times, the shard is read again and its sha256 must be the same.
Index folders may be copied along with the shards, also to a server: a remote shard is then
indexed without downloading it.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from mae.base.errors import StorageError, UserError
from mae.base.files import new_file
from mae.base.redaction import redacted
from mae.data.labels import NO_LABEL
from mae.data.passed_over import PassedOver, Reason
from mae.data.scan import scan
from mae.data.shard_index import ShardIndex
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache
from mae.storage.remote import (
    RemoteFile,
    at_most,
    canonical_address,
    download,
    is_remote,
    stat,
)

HEADER_BYTES = 1 << 20
"""more than the header of an index"""
FORMAT = "3"
INDEX_FOLDER = ".mae-index"
DEFAULT_INDEX_DIR = Path("~/.cache/mae/index")
"""folder of the indexes of remote shards and of shared manifests, unless data.index_dir is set"""
COLUMNS: dict[str, type[np.generic]] = {
    "offset": np.int64,
    "size": np.uint32,
    "crc": np.uint32,
    "label": np.int32,
    "kind": np.uint8,
}


class _Cached(NamedTuple):
    index: ShardIndex
    version: str
    """version of the shard when it was indexed"""


class IndexedShard(NamedTuple):
    """Index of a shard, and the state of the shard before it was read."""

    index: ShardIndex
    state: str
    """size and times, or the server's version, as `shard_state`"""


def shard_index(
    location: str, index_dir: Path | None = None, cache: ShardCache | None = None
) -> ShardIndex:
    """The index of one shard: cached, or made by reading the shard and then cached if possible.

    A remote shard is read through `cache`, unless its index lies beside it.  Raises UserError as
    `scan` does, and where the shard has the indexed size but another sha256; StorageError where a
    remote shard cannot be fetched.
    """
    return indexed_shard(location, index_dir, cache).index


def indexed_shard(
    location: str, index_dir: Path | None = None, cache: ShardCache | None = None
) -> IndexedShard:
    """Index of one shard as `shard_index`, with its state."""
    file = _index_file(location, index_dir)
    if not is_remote(location):
        path = Path(location)
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        size, version, state = status.st_size, str(status.st_mtime_ns), _local_state(status)
        cached = _load(file, size)
        if cached and cached.version == version:
            return IndexedShard(cached.index, state)
        index = scan(path)
        _compare(location, index, cached, file)
        _store(file, index, version)
        return IndexedShard(index, state)

    remote = stat(location)
    state = _remote_state(remote)
    cached = _load(file, remote.size)
    if cached and cached.version == remote.version:
        return IndexedShard(cached.index, state)
    index = _index_beside(location, remote.size)  # downloads of the shard are checked against it
    if index is None:
        if cache is None:
            raise UserError(f"{redacted(location)}: remote shards need a cache")
        with cache.open(location, size=remote.size, version=remote.version) as copy:
            # By its descriptor: in a small cache other downloads may replace the file.
            index = scan(Path(f"/dev/fd/{copy.fileno()}"), redacted(location))
        _compare(location, index, cached, file)
    _store(file, index, remote.version)
    return IndexedShard(index, state)


def shard_state(location: str) -> str:
    """Size and times of a local shard, size and version of a remote one; another after a change.

    "" where the shard is not there, or its server reports no version: such a state is equal to
    none.  Raises StorageError where a server does not answer.
    """
    if is_remote(location):
        return _remote_state(stat(location))
    try:
        return _local_state(Path(location).stat())
    except OSError:
        return ""


def _local_state(status: os.stat_result) -> str:
    # The time of the last change of the inode, too: copies keep that of the content.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _remote_state(remote: RemoteFile) -> str:
    return f"{remote.size} {remote.version}" if remote.version else ""


def index_folder(location: str, index_dir: Path | None = None) -> Path:
    """The folder of the cached index of the shard at `location`."""
    if is_remote(location):
        index_dir = index_dir or DEFAULT_INDEX_DIR.expanduser()
        folder = canonical_address(location).rpartition("/")[0]
    elif index_dir is None:
        return Path(location).parent / INDEX_FOLDER
    else:
        folder = str(Path(location).parent.resolve())
    # Shards of different folders may share a base name.
    return index_dir / short_hash(folder)


def _index_file(location: str, index_dir: Path | None) -> Path:
    name = Path(location).name
    if is_remote(location):
        # The hash distinguishes shards whose addresses differ in the query only (`get?id=7`).
        address_hash = short_hash(canonical_address(location))
        shown = "pipe" if location.startswith("pipe:") else redacted(location).rpartition("/")[2]
        name = f"{shown[:100]}-{address_hash}"
    return index_folder(location, index_dir) / f"{name}.safetensors"


def short_hash(text: str) -> str:
    """16 hexadecimal digits of a text's sha256, for names of files."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _compare(location: str, index: ShardIndex, cached: _Cached | None, file: Path) -> None:
    """Raise UserError where the sha256 differs from that of `cached`, the index in `file`."""
    if cached and cached.index.sha256 != index.sha256:
        raise UserError(
            f"{redacted(location)}: not the bytes that were indexed (sha256): damaged, or changed "
            f"on purpose (then delete its index {file})"
        )


def _index_beside(location: str, size: int | None) -> ShardIndex | None:
    """The index stored beside a remote shard, if there is one for a shard of this size."""
    if location.startswith("pipe:") or size is None:
        return None
    address, question, query = location.partition("?")
    folder, _, name = address.rpartition("/")
    beside = f"{folder}/{INDEX_FOLDER}/{name}.safetensors{question}{query}"
    with (
        suppress(StorageError, OSError),  # such as a full /tmp
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary,
    ):
        path = Path(temporary, "index")
        with path.open("wb") as file:
            # No index is larger than its shard, but for its header.
            download(beside, file, check=at_most(size + HEADER_BYTES, beside))
        cached = _load(path, size)
        return cached.index if cached else None
    return None


def _load(file: Path, size: int | None) -> _Cached | None:
    """The cached index, if it is undamaged and of a shard of this size."""
    try:
        if not file.is_file():
            return None
        with safe_open(file, framework="np") as stored:
            metadata = stored.metadata()
            version = metadata["version"]
            arrays = {name: stored.get_tensor(name) for name in ("keys", *COLUMNS)}
        if (
            metadata["format"] != FORMAT
            or (size is not None and metadata["bytes"] != str(size))
            or metadata["digest"] != _digest(arrays, metadata)
        ):
            return None
        keys = arrays.pop("keys").tobytes()
        index = ShardIndex(
            keys=keys,
            **arrays,
            bytes=int(metadata["bytes"]),
            sha256=metadata["sha256"],
            **members_from_json(metadata["members"]),
        )
        return _Cached(index, version) if _is_sound(index) else None
    except Exception:  # absent or damaged in whatever way: the shard is read again
        return None


def _is_sound(index: ShardIndex) -> bool:
    """True where every column has a value for each sample, and all images lie in the shard.

    The digest detects damage; an index may also be made by a stranger.
    """
    n = index.keys.count(b"\0") + 1 if index.keys or len(index.offset) else 0
    columns = {name: getattr(index, name) for name in COLUMNS}
    if any(values.shape != (n,) or values.dtype != COLUMNS[c] for c, values in columns.items()):
        return False
    # Compared so that no sum overflows.
    inside = (index.offset >= 0) & (index.offset <= index.bytes - index.size.astype(np.int64))
    return bool(
        inside.all()
        and (index.kind < len(EXTENSIONS)).all()
        and (index.label >= NO_LABEL - len(index.label_names)).all()
    )


def _store(file: Path, index: ShardIndex, version: str) -> None:
    """Write the index atomically; in a folder that is not writable it is not cached."""
    arrays = {"keys": np.frombuffer(index.keys, np.uint8)}
    arrays |= {name: getattr(index, name) for name in COLUMNS}
    metadata = {"format": FORMAT, "bytes": str(index.bytes), "version": version}
    metadata |= {"sha256": index.sha256, "members": members_to_json(index)}
    metadata["digest"] = _digest(arrays, metadata)
    with suppress(UserError), new_file(file) as part:
        part.write_bytes(save(arrays, metadata))  # save_file's mode is 0600


def members_to_json(index: ShardIndex) -> str:
    """The fields that are no columns."""
    return json.dumps([index.label_names, index.passed_over, index.others])


def members_from_json(text: str) -> dict[str, Any]:
    """Fields of a ShardIndex by `members_to_json`."""
    names, passed_over, others = json.loads(text)
    return {
        "label_names": tuple(str(name) for name in names),
        "passed_over": tuple(
            PassedOver(Reason(*map(str, reason)), int(count), str(first))
            for reason, count, first in passed_over
        ),
        "others": tuple((str(extension), int(count)) for extension, count in others),
    }


def _digest(arrays: dict[str, npt.NDArray], metadata: dict[str, str]) -> str:
    """sha256 over the columns: safetensors itself does not detect flipped bits."""
    digest = hashlib.sha256((metadata["sha256"] + metadata["members"]).encode())
    for name in ("keys", *COLUMNS):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
