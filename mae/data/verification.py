"""Result of a verification: reports of shards, their sum, the printed lines, the JSON file."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.files import write_json
from mae.base.redaction import redacted
from mae.data.passed_over import kinds_of_files

SHOWN = 10
"""maximum number of defects printed one by one"""


class Defect(NamedTuple):
    """A bad sample, or (with an empty key) a bad shard."""

    shard: str
    key: str
    reason: str
    unread: int = 0
    """number of the shard's members that are not read for this reason"""


class ShardReport(NamedTuple):
    """Result of the verification of one shard."""

    state: str
    """state of the shard before it was read; "" where that is not known, or the shard is bad"""
    samples: int
    bad: Sequence[tuple[str, str, int]]
    """key, reason and number of unread members of each defect, the shard's own first"""
    kinds: Sequence[tuple[str, int, int, int]]
    """number of good samples (last) per extension, channels and bits"""
    others: Sequence[tuple[str, int]]
    """(extension, number) of members that are no samples and were not decoded"""
    is_empty: bool
    """a readable shard without images"""


class Verification(NamedTuple):
    """Result of `verify`: counts and defects."""

    samples: int
    shards: int
    bad: tuple[Defect, ...]
    """defects in the manifest's order of shards: the shard's own, then samples in tar order"""
    formats: dict[str, int]
    """number of good samples per extension"""
    channels: dict[int, int]
    """number of good samples per number of channels"""
    bits: dict[int, int]
    """number of good samples per bits of a channel"""
    others: tuple[tuple[str, int], ...] = ()
    """(extension, number) of members that are no samples and were not decoded"""
    empty: int = 0
    """number of readable shards without images"""


def pack_reports(reports: Sequence[ShardReport]) -> bytes:
    """Reports as one part of divided work."""
    return json.dumps(reports).encode()


def unpack_reports(part: bytes) -> list[ShardReport]:
    """Reports that `pack_reports` has packed."""
    return [ShardReport(*one) for one in json.loads(part)]


def add_reports(shards: Iterable[str], reports: Iterable[ShardReport]) -> Verification:
    """Sum of the reports of all `shards`, in their order."""
    bad: list[Defect] = []
    formats, channels, bits, others = Counter[str](), Counter[int](), Counter[int](), Counter[str]()
    samples = count = empty = 0
    for shard, report in zip(shards, reports, strict=True):
        count += 1
        samples += report.samples
        bad += [Defect(redacted(shard), *one) for one in report.bad]
        empty += report.is_empty
        for extension, depth, width, number in report.kinds:
            formats[extension] += number
            channels[depth] += number
            bits[width] += number
        others.update(dict(report.others))
    return Verification(
        samples=samples,
        shards=count,
        bad=tuple(bad),
        formats=dict(sorted(formats.items())),
        channels=dict(sorted(channels.items())),
        bits=dict(sorted(bits.items())),
        others=tuple(sorted(others.items())),
        empty=empty,
    )


def write_verification(verification: Verification, out: Path) -> None:
    """Write the counts and all defects as JSON.  Raises UserError where `out` cannot be written."""
    content: dict[str, Any] = verification._asdict()
    bad = [defect._asdict() for defect in content.pop("bad")]
    write_json(out, content | {"others": dict(verification.others), "bad": bad})


def describe_verification(verification: Verification) -> list[str]:
    """Printed lines: the defects, then the counts."""
    lines = [f"{b.shard}: {f'key {b.key}: ' if b.key else ''}{b.reason}" for b in verification.bad]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verification.formats.items())
    channels = ", ".join(f"{n:,} of {value} channels" for value, n in verification.channels.items())
    bits = ", ".join(f"{n:,} of {value} bits" for value, n in verification.bits.items())
    images = f"{verification.samples:,} image{'s' * (verification.samples != 1)}"
    whole = f"{images} in {verification.shards:,} shard{'s' * (verification.shards != 1)}"
    unread = sum(one.unread for one in verification.bad)
    bad = sum(not one.unread for one in verification.bad)
    faults = [f"{bad:,} bad"] * bool(bad) + [
        f"{unread:,} more file{'s' * (unread != 1)} not read"
    ] * bool(unread)
    result = ", ".join(faults) or "all good"
    others = kinds_of_files(dict(verification.others))
    not_decoded = f"not decoded, no samples of their own: {others}" if others else ""
    empty = verification.empty
    without = f"{empty:,} shard{'s' * (empty != 1)} without images" if empty else ""
    about = filter(None, (kinds, channels, bits, not_decoded, without))
    return [*lines, *about, f"{whole}: {result}"]
