"""Lines for the user on an export of latents."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.base.disk_space import gigabytes
from mae.data.passed_over import kinds_of_files
from mae.latents.arrays import Kind
from mae.latents.export import RECORD, bytes_per_image

SHOWN = 8
"""maximum number of channels whose moments are printed"""


def size_line(kinds: Mapping[str, Kind], images: int) -> str:
    """Line on shapes and size, before the work."""
    shapes = ", ".join(f"{kind.what} {list(kind.shape)} {kind.type}" for kind in kinds.values())
    size = bytes_per_image(kinds)
    total = gigabytes(size * images)
    return f"latents of {images:,} images: {shapes}: {size:,} bytes each, {total}"


def summary_lines(record: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Lines after the work, from the content of latents.json."""
    for name, one in record["members"].items():
        yield f"KEY.{name:12} {list(one['shape'])!s:14} {one['dtype']:8} {one['what']}"
    skipped = f", {len(record['skipped']):,} images skipped" if record["skipped"] else ""
    shards = f"{len(record['shards']):,} shard{'s' * (len(record['shards']) != 1)}"
    yield f"{record['images']:,} images in {shards}{skipped}"
    if "codes" in record:
        for name, one in record["codes"].items():
            used = f"{one['usage']:.0%} of {one['num_codes']:,} used"
            yield f"codes{name and f' {name}'}: {used}, perplexity {one['perplexity']:.0f}"
    else:
        yield from _about_scale(record)
    if record["not_copied"]:
        yield f"not copied: {kinds_of_files(record['not_copied'])}"
    if record["renamed_keys"]:
        yield f"{record['renamed_keys']:,} keys: dots became _, since they end a WebDataset key"
    shape = record["members"]["npy"]["shape"]
    if "codes" not in record and len(shape) == 3:
        size = f"[{shape[1]},{shape[2]}]"
        yield (
            f"to train on them: data.bits=32 data.in_chans={shape[0]} data.img_size={size} "
            "data.own_statistics=true"
        )
    yield "; ".join(f"manifest {shlex.quote(str(out / name))}" for name in record["manifests"])
    yield f"{out}: details in {out / RECORD}"


def _about_scale(record: Mapping[str, Any]) -> Iterator[str]:
    origin = "as the source gives it" if record["scale_is_given"] else "1 / std of all latents"
    yield f"scaling_factor {record['scaling_factor']:.5g} ({origin})"
    for label, key, form in (("mean", "latents_mean", "+.3f"), ("std", "latents_std", ".3f")):
        yield f"  {label:4} by channel {_numbers(record[key], form)}"
    if constant := record["constant_channels"]:
        shown = ", ".join(map(str, constant[:SHOWN]))
        yield f"warning: {len(constant)} constant channels ({shown}): they hold nothing"


def _numbers(values: Sequence[float], form: str) -> str:
    more = f" … ({len(values)} in all)" if len(values) > SHOWN else ""
    return " ".join(f"{value:{form}}" for value in values[:SHOWN]) + more
