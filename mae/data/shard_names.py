"""Names of the shards of a manifest file, and the remote ones among the shards of any manifest."""

import posixpath
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mae.data.columns import Blobs, Elements, Joined
from mae.data.shards import join_address
from mae.storage.remote import is_remote


class ShardNames(Elements[str]):
    """Paths or addresses of the shards, from names relative to those of the manifest."""

    def __init__(self, names: Blobs, manifest: str) -> None:
        path, question, query = (
            manifest.partition("?") if is_remote(manifest) else (manifest, "", "")
        )
        self.names, self.folder = names, posixpath.dirname(path) or "."
        self.query = question + query
        """signature of the manifest's address, which serves its shards, too"""

    def __len__(self) -> int:
        return len(self.names)

    def element(self, number: int) -> str:
        """The shard of a number."""
        name = self.names[number].decode("utf-8", "surrogateescape")
        return join_address(self.folder, name) + ("" if is_remote(name) else self.query)

    def are_remote(self) -> npt.NDArray[np.bool_]:
        """[shards]: True for addresses."""
        if is_remote(self.folder):
            return np.ones(len(self), bool)
        # Mostly none is an address, of perhaps a million: their bytes are searched at once.
        if b":" not in self.names.content.tobytes():
            return np.zeros(len(self), bool)
        return np.array([is_remote(name.decode("utf-8", "replace")) for name in self.names], bool)


def remote_shards(shards: Sequence[str]) -> npt.NDArray[np.bool_]:
    """[shards]: True for addresses, False for paths."""
    if isinstance(shards, ShardNames):
        return shards.are_remote()
    if isinstance(shards, Joined):
        return np.concatenate([remote_shards(part) for part in shards.parts])
    return np.array([is_remote(shard) for shard in shards], bool)
