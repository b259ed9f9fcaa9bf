"""Index of the samples of a shard, and the class numbers of its labels that are names."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.data.class_names import beside, class_numbers
from mae.data.labels import NO_LABEL
from mae.data.passed_over import PassedOver, PassedOverCounter, Reason


class ShardIndex(NamedTuple):
    """The samples of one shard, in tar order."""

    keys: bytes
    """joined by NUL: a Python string per sample would cost every worker memory"""
    offset: npt.NDArray[np.int64]
    """position of the image in the shard, in bytes"""
    size: npt.NDArray[np.uint32]
    """size of the image in bytes"""
    crc: npt.NDArray[np.uint32]
    """crc32 of the image's bytes"""
    label: npt.NDArray[np.int32]
    """class number from the sample's `.cls`; NO_LABEL without one; -2 - i: `label_names[i]`"""
    kind: npt.NDArray[np.uint8]
    """index into EXTENSIONS"""
    bytes: int
    """size of the shard"""
    sha256: str
    """checksum of the shard, hexadecimal"""
    class_list: str = ""
    """digest of the class names by which texts became numbers in `label`; "": there were none"""
    label_names: tuple[str, ...] = ()
    """texts of labels that are no numbers: class names, if classes.txt lists them"""
    passed_over: tuple[PassedOver, ...] = ()
    """members that are, or may be, images or labels, and are not read"""
    others: tuple[tuple[str, int], ...] = ()
    """(extension, number) of the other members"""


class ClassNumbers:
    """Numbers of labels that are names, by the classes.txt beside shards; each is read once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def beside(self, shard: str) -> dict[str, int]:
        """Class name → number; names that classes.txt does not list have none."""
        file = beside(shard)
        with self._lock:
            if file not in self._known:
                self._known[file] = class_numbers(file) if file else {}
            return self._known[file]

    def numbered(self, shard: str, index: ShardIndex) -> ShardIndex:
        """The index with numbers for names; names of no class are passed over."""
        return _numbered(index, self.beside(shard)) if index.label_names else index


def with_class_numbers(
    shards: Iterable[str], indexes: Iterable[ShardIndex]
) -> Iterator[ShardIndex]:
    """The indexes with the numbers of labels that are names; names of no class are passed over."""
    numbers = ClassNumbers()
    for shard, index in zip(shards, indexes, strict=True):
        yield numbers.numbered(shard, index)


def _numbered(index: ShardIndex, numbers: dict[str, int]) -> ShardIndex:
    label, named = index.label.astype(np.int64), np.flatnonzero(index.label < NO_LABEL)
    table = np.array([numbers.get(name, NO_LABEL) for name in index.label_names])
    label[named] = table[-2 - label[named]]
    unknown = named[label[named] == NO_LABEL]
    passed_over = index.passed_over
    if len(unknown):
        first = int(unknown[0])
        key = index.keys.split(b"\0")[first].decode("utf-8", "backslashreplace")
        text = index.label_names[-2 - int(index.label[first])]
        counter = PassedOverCounter()
        counter.add(_name_reason(bool(numbers)), f"{key}.cls ({text})", len(unknown))
        passed_over += counter.result()
    return index._replace(
        label=label.astype(np.int32),
        label_names=(),
        passed_over=passed_over,
        class_list=class_list_digest(numbers),
    )


def class_list_digest(numbers: dict[str, int]) -> str:
    """Digest of the class names by which texts became numbers."""
    return hashlib.sha256(repr(sorted(numbers.items())).encode()).hexdigest()[:16]


def _name_reason(has_classes: bool) -> Reason:
    where = "classes.txt beside the shard"
    if has_classes:
        return Reason(f"labels (.cls), text that the {where} does not list", "add its class")
    return Reason(
        "labels (.cls), text instead of a class number",
        f"list the class names in a {where}, one a line in the order of their numbers",
    )
