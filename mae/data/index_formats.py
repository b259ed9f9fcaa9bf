"""Indexes of shards in the formats of NVIDIA DALI (wds2idx) and of webdataset (wids)."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.printable import printable
from mae.data.tar_members import Member, walk


def write_wds2idx(shard: Path, out: Path) -> int:
    """Write the index of one shard for `fn.readers.webdataset` of NVIDIA DALI.

    Text: `v1.2 SAMPLES`, then a line per sample of `EXTENSION OFFSET SIZE NAME` for each of its
    files, in tar order; OFFSET is that of the content, in bytes.  Consecutive files with one key
    are a sample; hidden files and files without an extension are skipped.  Returns the number of
    samples.  Raises UserError, naming the shard or `out`, where the shard is damaged or empty, a
    name has blanks, or `out` cannot be written.
    """
    samples = webdataset_samples(shard)
    if not samples:
        raise UserError(f"{shard}: no samples to index")
    lines = [f"v1.2 {len(samples)}"]
    for sample in samples:
        for _, member in sample:
            if len(member.name.split()) != 1:
                where = f"{shard}: {printable(member.name)}"
                raise UserError(f"{where}: DALI's index cannot hold names with blanks")
        lines.append(" ".join(f"{name} {one.offset} {one.size} {one.name}" for name, one in sample))
    _write(out, "".join(f"{line}\n" for line in lines))
    return len(samples)


def webdataset_samples(shard: Path) -> list[list[tuple[str, Member]]]:
    """(extension, file) of each sample as WebDataset groups them, with or without an image."""
    samples: list[list[tuple[str, Member]]] = []
    last = None
    for member in walk(shard):
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem or not extension:
            continue
        key = f"{folder}{slash}{stem}"
        if key != last:
            samples.append([])
            last = key
        samples[-1].append((extension, member))
    return samples


def write_wids(shards: Sequence[Path], counts: Sequence[int], out: Path) -> None:
    """Write a wids index of `shards` with `counts` samples; urls are relative to `out`'s folder.

    Raises UserError where a shard cannot be read or `out` cannot be written.
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
    """Write `out` atomically."""
    with new_file(out) as part:
        # File names that are not UTF-8 are written byte for byte.
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
