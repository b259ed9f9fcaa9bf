"""The folder of images that a packed copy was made from, as recorded beside its shards."""

import re
from pathlib import Path

from mae.base.files import read_json
from mae.storage.remote import is_remote

ABOUT = "folder.json"
"""file of a copy with the folder that it was made from"""
COPY = re.compile(r".*-[0-9a-f]{16}")
"""name of a copy"""


def source_of(copy: Path) -> str:
    """Folder that `copy` is a copy of; "" for any other folder."""
    return str(read_json(copy / ABOUT).get("folder", "")) if COPY.fullmatch(copy.name) else ""


def source_folder(shard: str) -> str:
    """Folder of images that a shard was packed from by itself; "" for any other shard."""
    return "" if is_remote(shard) else source_of(Path(shard).parent)
