"""Further members of a shard's samples: labels, captions and other metadata, which are copied."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from mae.base.errors import UserError
from mae.data.scan import MASKS, is_image, split_name
from mae.data.tar_members import Member, walk_open


class Copied(NamedTuple):
    """Members to copy, of each sample by its key, and what is left out."""

    of_key: Mapping[str, Mapping[str, Member]]
    """key → extension → member"""
    left_out: Counter[str]
    """number of further images and files of no sample, by extension"""


def further_members(shard: BinaryIO, name: str, keys: Sequence[str]) -> Copied:
    """Members of an open shard that belong to `keys` and are no images.

    A member belongs to the longest key that its name begins with, or by WebDataset's rule to all
    images whose keys have its key before their first dot.  Raises UserError as `walk`.
    """
    of_key: dict[str, dict[str, Member]] = {key: {} for key in keys}
    by_first_dot: dict[str, list[str]] = {}
    for key in keys:
        by_first_dot.setdefault(split_name(key)[0], []).append(key)
    left_out: Counter[str] = Counter()
    for member in walk_open(shard, name):
        first, extension = split_name(member.name)
        if is_image(extension):
            own, _, last = member.name.rpartition(".")
            is_sample = own in of_key or (first in of_key and extension == last.lower())
            if not is_sample:
                left_out[extension] += 1
        elif extension.endswith(MASKS):
            left_out[extension] += 1
        elif key := _longest(member.name, of_key):
            of_key[key].setdefault(member.name[len(key) + 1 :].lower(), member)
        elif first in by_first_dot:
            for key in by_first_dot[first]:
                of_key[key].setdefault(extension, member)
        else:
            left_out[extension] += 1
    return Copied(of_key, left_out)


def _longest(name: str, keys: Mapping[str, object]) -> str:
    """The longest of `keys` followed by a dot that `name` begins with; empty: none."""
    start = name.rpartition(".")[0]
    while start:
        if start in keys:
            return start
        shorter = start.rpartition(".")[0]
        start = shorter if "/" not in start[len(shorter) :] else ""
    return ""


def undotted(keys: Sequence[str], shard: str) -> list[str]:
    """Keys without dots in their base names, by which WebDataset would end the key.

    Raises UserError where two keys of `shard` become one.
    """
    found = []
    for key in keys:
        folder, slash, base = key.rpartition("/")
        found.append(f"{folder}{slash}{base.replace('.', '_')}")
    if len(set(found)) < len(found):
        double = next(key for key, count in Counter(found).items() if count > 1)
        raise UserError(f"{shard}: several keys become {double} without their dots: rename them")
    return found
