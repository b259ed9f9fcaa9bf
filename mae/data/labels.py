"""Labels of samples: the text of a `.cls` member, and class names from classes.txt.

A `.cls` holds a class number in ASCII (`7`), or the name of a class that the classes.txt beside
the shard lists, one name a line; the number is then that of the line, from 0.  A text that is a
number is always a number.  Everything else is no label, and named as such.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mae.base.printable import printable
from mae.data.class_names import beside, class_numbers, normal
from mae.data.passed_over import PassedOverCounter, Reason

if TYPE_CHECKING:
    from mae.data.scan import ShardIndex

NO_LABEL = -1
"""label of a sample without a class number"""
LONGEST_LABEL = 200
"""bytes"""
LARGEST_LABEL = 2**31 - 1

_WHOLE = re.compile(r"[+]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf)", re.I)


class Label(NamedTuple):
    """Content of a `.cls`: a number, a text that may be a class name, or a fault."""

    number: int = NO_LABEL
    name: str = ""
    fault: str = ""
    """what it is instead of a class number"""


def read_label(content: bytes) -> Label:
    """Read the content of a `.cls`."""
    if len(content) < 10 and content.isdigit():
        return Label(int(content))
    if len(content) > LONGEST_LABEL:
        return Label(fault=f"longer than {LONGEST_LABEL} bytes")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        return Label(fault="UTF-16 or binary, not ASCII or UTF-8")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Label(fault="not UTF-8")
    if not text:
        return Label(fault="empty")
    if _WHOLE.fullmatch(text):
        number = int(text)
        too_large = number > LARGEST_LABEL
        return Label(fault=f"larger than {LARGEST_LABEL}") if too_large else Label(number)
    if _NUMBER.fullmatch(text):
        negative = text.startswith("-") and _WHOLE.fullmatch(text[1:])
        return Label(fault="negative" if negative else "no whole number")
    if text.startswith(("{", "[")):
        return Label(fault="JSON")
    return Label(name=printable(normal(text)))


def fault_reason(fault: str) -> Reason:
    """Reason to pass over labels with this fault."""
    return Reason(f"labels (.cls), {fault}", "write a class number, 0 or more, as text")


def with_class_numbers(
    shards: Sequence[str], indexes: Sequence["ShardIndex"]
) -> list["ShardIndex"]:
    """The indexes with the numbers of labels that are names; names of no class are passed over."""
    numbers: dict[str, dict[str, int]] = {}
    numbered = []
    for shard, index in zip(shards, indexes, strict=True):
        if index.label_names:
            file = beside(shard)
            if file not in numbers:
                numbers[file] = class_numbers(file) if file else {}
            index = _numbered(index, numbers[file])
        numbered.append(index)
    return numbered


def _numbered(index: "ShardIndex", numbers: dict[str, int]) -> "ShardIndex":
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
    return index._replace(label=label.astype(np.int32), label_names=(), passed_over=passed_over)


def _name_reason(has_classes: bool) -> Reason:
    where = "classes.txt beside the shard"
    if has_classes:
        return Reason(f"labels (.cls), text that the {where} does not list", "add its class")
    return Reason(
        "labels (.cls), text instead of a class number",
        f"list the class names in a {where}, one a line in the order of their numbers",
    )
