"""Writer of manifest files, shard by shard."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.printable import printable
from mae.base.redaction import CREDENTIALS, SECRET, redacted
from mae.data.index import COLUMNS
from mae.data.manifest import Fingerprint, Manifest
from mae.data.manifest_file import FORMAT, ROWS, SUFFIX, TABLE, TYPES, is_manifest, table_digest
from mae.data.shard_index import ShardIndex
from mae.storage.remote import canonical_address, is_remote


class ManifestWriter:
    """Writes a manifest shard by shard, through a temporary file per tensor."""

    def __init__(self, folder: Path, out: Path) -> None:
        """`folder`: for the temporary files; `out`: the file to be, which names are relative to."""
        self.out, self.fingerprint = out, Fingerprint()
        self.samples = 0
        names = [name for _, names in TYPES.values() for name in names]
        self._files: dict[str, BinaryIO] = {
            name: Path(folder, name).open("w+b")  # noqa: SIM115  # closed by `close`
            for name in names
        }
        self._starts = {"first": 0, "key_start": 0, "name_start": 0}
        self._members: list[Any] = []
        self._shards = 0
        self._mark_starts()

    def add(self, shard: str, index: ShardIndex) -> None:
        """Append a shard at a path or an address, without its signature.

        Raises UserError for a `pipe:` command, an address with a secret, or a name that no
        manifest can hold; OSError where the disk is full.
        """
        self.fingerprint.add(shard, index)
        name = self._relative(shard)
        arrays = {column: getattr(index, column) for column in COLUMNS}
        contents = {column: array.tobytes() for column, array in arrays.items()}
        contents |= {
            "keys": index.keys,
            "names": name,
            "sha256": bytes.fromhex(index.sha256),
            "shard_bytes": np.array(index.bytes, "<i8").tobytes(),
        }
        for tensor, content in contents.items():
            self._files[tensor].write(content)
        if index.passed_over or index.others or index.class_list:
            own = [self._shards, index.passed_over, index.others, index.class_list]
            self._members.append(own)
        self._shards += 1
        self.samples += len(index.offset)
        for tensor, length in zip(
            self._starts, (len(index.offset), len(index.keys), len(name)), strict=True
        ):
            self._starts[tensor] += length
        self._mark_starts()

    def finish(self, path: Path) -> None:
        """Write the manifest to `path`."""
        self._files["members"].write(json.dumps(self._members).encode())
        with path.open("wb") as target:
            metadata = {
                "format": FORMAT,
                "fingerprint": self.fingerprint.hexdigest(),
                "former_fingerprint": self.fingerprint.former(),
                "rows": self._digest(ROWS),
            }
            metadata["table"] = table_digest(self._digest(TABLE), metadata)
            lengths = {name: file.tell() for name, file in self._files.items()}
            target.write(manifest_header(lengths, metadata))
            for file in self._files.values():
                file.seek(0)
                shutil.copyfileobj(file, target, 1 << 20)

    def close(self) -> None:
        """Close the temporary files."""
        for file in self._files.values():
            file.close()

    def _mark_starts(self) -> None:
        for tensor, start in self._starts.items():
            self._files[tensor].write(np.array(start, "<i8").tobytes())

    def _relative(self, shard: str) -> bytes:
        if is_remote(shard):
            _refuse_address(shard)
            name = canonical_address(shard)
        else:
            path = Path(shard)
            name = os.path.relpath(path.parent.resolve() / path.name, self.out.parent.resolve())
            if name.startswith("pipe:") or is_remote(name) or any(end in name for end in "\r\n"):
                raise UserError(f"{printable(shard)}: a manifest cannot list this name: rename it")
        return name.encode("utf-8", "surrogateescape")

    def _digest(self, names: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for name in names:
            self._files[name].seek(0)
            while part := self._files[name].read(1 << 20):
                digest.update(part)
        return digest.hexdigest()


def manifest_header(lengths: Mapping[str, int], metadata: Mapping[str, str]) -> bytes:
    """Bytes before the tensors: safetensors' header for tensors of these `lengths` in bytes."""
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for kind, (dtype, names) in TYPES.items():
        for name in names:
            end = start + lengths[name]
            shape = [lengths[name] // np.dtype(dtype).itemsize]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
            start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def refuse_names(out: Path, shards: Iterable[str]) -> None:
    """Raise UserError where `out` is no name of a manifest, or `shards` none that it may list.

    For the addresses among these: names of files are refused when they are written.
    """
    if not is_manifest(out.name):
        raise UserError(f"{out}: the name of a manifest ends in {SUFFIX}")
    for shard in filter(is_remote, shards):
        _refuse_address(shard)


def _refuse_address(shard: str) -> None:
    if shard.startswith("pipe:"):
        raise UserError(f"{redacted(shard)}: a manifest lists no commands, which may hold secrets")
    name = canonical_address(shard)
    if "#" in shard or SECRET.search(name) or CREDENTIALS.search(name):
        raise UserError(f"{redacted(shard)}: a manifest lists no address with # or a secret in it")


@contextmanager
def new_manifest(out: Path, folder: Path | None = None) -> Iterator[ManifestWriter]:
    """Yield a writer; at the end of the block, finished, it replaces `out` whole or not at all.

    `folder`: for temporary files (default: that of `out`).  Raises UserError where `out` cannot be
    written.
    """
    refuse_names(out, ())
    with (
        new_file(out) as part,
        tempfile.TemporaryDirectory(".part", dir=folder or out.parent) as temporary,
    ):
        writer = ManifestWriter(Path(temporary), out)
        try:
            yield writer
            writer.finish(part)
        finally:
            writer.close()


def write_manifest(manifest: Manifest, out: Path) -> None:
    """Write a manifest that is in memory.  Raises UserError where `out` cannot be written."""
    with new_manifest(out) as writer:
        for number, shard in enumerate(manifest.shards):
            writer.add(shard, manifest.index_of(number))
