"""Names of samples under pictures: key and class."""

from contextlib import suppress
from functools import lru_cache

from mae.base.errors import UserError
from mae.base.printable import printable
from mae.data.class_names import Names, beside, read_names
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.storage.remote import is_remote


def sample_name(manifest: Manifest, number: int) -> str:
    """The sample's key without folders and, on a line of its own, its class where it has one.

    The class's name is that of the manifest, or of classes.txt beside the sample's local shard;
    without either its number is given.
    """
    key, label = manifest.key(number), int(manifest.label[number])
    short = key.rpartition("/")[2]
    if label == NO_LABEL:
        return short
    names = manifest.class_names or _names_beside(manifest.shards[manifest.shard_of(number)])
    name = printable(names[label]) if 0 <= label < len(names) else ""
    return f"{short}\n{name or f'class {label}'}"


@lru_cache(maxsize=256)
def _names_beside(shard: str) -> Names:
    with suppress(UserError, OSError):
        return () if is_remote(shard) else read_names(beside(shard))
    return ()
