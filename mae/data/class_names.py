"""What the classes of a data set are called."""

from collections.abc import Sequence
from pathlib import Path

from mae.data.manifest import Manifest
from mae.remote.files import is_remote

FILE = "classes.txt"
"""beside the shards, a line for each class: `mae pack` writes it"""


def class_names(manifest: Manifest, num_classes: int) -> Sequence[str]:
    """A name for each class: those of classes.txt beside the first shard, else the numbers."""
    numbers = [str(i) for i in range(num_classes)]
    first = manifest.shards[0]
    if is_remote(first) or first.startswith("pipe:"):
        return numbers
    try:
        names = (Path(first).parent / FILE).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return numbers
    return names if len(names) == num_classes else numbers
