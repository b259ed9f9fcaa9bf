"""Names of samples under pictures: file or key, and class."""

import mmap
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.class_names import Names, beside, read_names
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.storage.remote import is_remote

SOURCES = "sources.tsv"
"""table beside packed shards, after a line of heads: key and file of each sample"""


def sample_name(manifest: Manifest, number: int) -> str:
    """The sample's file, else its key, without folders, and on a line of its own its class, if any.

    The file is that of SOURCES beside the sample's local shard, which `mae pack` writes.  The
    class's name is that of the manifest, or of classes.txt beside the shard; without either its
    number is given.
    """
    key, label = manifest.key(number), int(manifest.label[number])
    shard = manifest.shards[manifest.shard_of(number)]
    short = (file_of(shard, key) or key).rpartition("/")[2]
    if label == NO_LABEL:
        return short
    names = manifest.class_names or _names_beside(shard)
    name = printable(names[label]) if 0 <= label < len(names) else ""
    return f"{short}\n{name or f'class {label}'}"


def file_of(shard: str, key: str) -> str:
    """File that a sample was packed from; "" where that is not known."""
    if is_remote(shard):
        return ""
    row = f"\n{key}\t".encode("utf-8", "surrogateescape")
    with (
        suppress(OSError, ValueError),  # none there, or empty
        Path(shard).with_name(SOURCES).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as table,
    ):
        if (start := table.find(row)) >= 0:
            first = start + len(row)
            last = table.find(b"\n", first)
            name = table[first : last if last >= 0 else len(table)]
            return printable(name.decode("utf-8", "surrogateescape"))
    return ""


@lru_cache(maxsize=256)
def _names_beside(shard: str) -> Names:
    with suppress(UserError, OSError):
        return () if is_remote(shard) else read_names(beside(shard))
    return ()
