"""Labels of samples: the text of a `.cls` member, and class names from classes.txt.

A `.cls` holds a class number in ASCII (`7`), or the name of a class that the classes.txt beside
the shard lists, one name a line; the number is then that of the line, from 0.  A text that is a
number is always a number.  Everything else is no label, and named as such.
"""

import re
from typing import NamedTuple

from mae.base.printable import printable
from mae.data.class_names import normal
from mae.data.passed_over import Reason

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
