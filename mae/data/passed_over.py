"""Members of shards that are passed over: counted by reason, the first of each named."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mae.base.printable import printable

SHOWN = 5
"""maximum number of kinds of files that one line names"""


class Reason(NamedTuple):
    """Reason to pass over members."""

    what: str
    """name of the members, in the plural"""
    remedy: str


class PassedOver(NamedTuple):
    """Members of one shard that are, or may be, images or labels, and are not read."""

    reason: Reason
    count: int
    first: str
    """name of the first, printable"""

    def __str__(self) -> str:
        what, remedy = self.reason
        return f"{what}: {self.count:,}, first {self.first}" + (f"; {remedy}" if remedy else "")


class PassedOverCounter:
    """Collects members by reason, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._found: dict[Reason, PassedOver] = {}

    def add(self, reason: Reason, name: str, count: int = 1) -> None:
        """Count `count` more of the same reason; `name` is that of the first of them."""
        known = self._found.get(reason)
        first = known.first if known else printable(name)
        self._found[reason] = PassedOver(reason, count + (known.count if known else 0), first)

    def result(self) -> tuple[PassedOver, ...]:
        """Members that were counted, by reason."""
        return tuple(self._found.values())


def over_all(parts: Iterable[tuple[str, Iterable[PassedOver]]]) -> tuple[PassedOver, ...]:
    """Sums over several (shard, its members); the first of each reason is named with its shard."""
    counter = PassedOverCounter()
    for shard, found in parts:
        for one in found:
            counter.add(one.reason, f"{shard}: {one.first}", one.count)
    return counter.result()


def kinds_of_files(counts: Mapping[str, int]) -> str:
    """`40 .json, 2 without an extension and 3 more kinds`, for members that are no images."""
    kinds = [
        f"{count:,} {f'.{printable(extension)}' if extension else 'without an extension'}"
        for extension, count in sorted(counts.items())
    ]
    if len(kinds) > SHOWN:
        kinds[SHOWN:] = [f"{len(kinds) - SHOWN:,} more kinds"]
        return f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return ", ".join(kinds)
