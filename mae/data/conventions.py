"""Indexes beside the shards that other tools read: DALI's `wds2idx`, and wids."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.data.tar import walk


def write_wds2idx(shard: Path, out: Path) -> int:
    """The index of one shard for `fn.readers.webdataset` of NVIDIA DALI; the number of samples.

    Text: `v1.2 SAMPLES`, then a line per sample of `EXTENSION OFFSET SIZE NAME` for each of its
    files, in tar order; OFFSET is that of the content, in bytes.  Files with one key one after
    the other are a sample; hidden files and those without an extension belong to none.
    Raises UserError, naming the shard or `out`: damaged, nothing in it, a name with blanks.
    """
    samples: list[list[str]] = []
    last = None
    for member in walk(shard):
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem or not extension:
            continue
        if len(member.name.split()) != 1:
            raise UserError(f"{shard}: {member.name}: DALI's index cannot hold names with blanks")
        key = f"{folder}{slash}{stem}"
        if key != last:
            samples.append([])
            last = key
        samples[-1].append(f"{extension} {member.offset} {member.size} {member.name}")
    if not samples:
        raise UserError(f"{shard}: no samples to index")
    lines = [f"v1.2 {len(samples)}", *map(" ".join, samples)]
    _write(out, "".join(f"{line}\n" for line in lines))
    return len(samples)


def write_wids(shards: Sequence[Path], counts: Sequence[int], out: Path) -> None:
    """A wids index of `shards`, which hold `counts` samples; paths count from the folder of `out`.

    Raises UserError where a shard or `out` is not accessible.
    """
    entries = []
    for shard, count in zip(shards, counts, strict=True):
        try:
            size = shard.stat().st_size
        except OSError as error:
            raise UserError(f"{shard}: cannot be read: {error.strerror}") from None
        url = os.path.relpath(shard.resolve(), out.parent.resolve())
        entries.append({"url": url, "nsamples": int(count), "filesize": size})
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries}
    _write(out, json.dumps(index, indent=2) + "\n")


def _write(out: Path, text: str) -> None:
    """`out` appears whole or not at all."""
    part = out.with_name(f".{out.name}.part")
    try:
        # File names are bytes: those that are no UTF-8 are written as they are.
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
