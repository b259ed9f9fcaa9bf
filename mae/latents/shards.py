"""Shards of latents: one for each shard of images, with the same name and keys."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import webdataset

from mae.base.errors import StorageError, UserError
from mae.base.files import discard
from mae.base.redaction import file_name, redacted
from mae.data.images import Images
from mae.data.index import shard_index
from mae.data.manifest import Manifest
from mae.data.tar_members import read_member
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.features import Skipped, UsableViews, Views
from mae.evaluation.parts import split
from mae.latents.arrays import Array, ArrayMaker, Kind, member, npy
from mae.latents.members import further_members, undotted
from mae.latents.moments import Moments

Report = dict[str, Any]
"""report on one shard, for JSON: images, bad ones, sums of the latents, what is left out"""


class LatentShards(NamedTuple):
    """Writer of shards of latents into the folder `out`."""

    images: Images
    views: CentredViews
    maker: ArrayMaker
    kinds: Mapping[str, Kind]
    names: Sequence[str]
    """file name of each shard"""
    out: Path
    temporary: Path
    """folder of the same file system, for shards until they are whole"""
    batch_size: int
    workers: int
    skipped: Skipped
    """counts the bad images of this process"""

    def write(self, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Write these shards, each with its index beside it; (number, report) of each.

        A shard without a usable image is not written.  Raises UserError as `Skipped` and
        `ArrayMaker`, StorageError, with its place, where a shard cannot be read or written.
        """
        manifest = self.images.manifest
        batches = [split(manifest.samples_of(one), self.batch_size) for one in numbers]
        indices = [batch for of_shard in batches for batch in of_shard]
        loaded = load_in_workers(UsableViews(self.views), indices, self.workers)
        for number, of_shard in zip(numbers, batches, strict=True):
            report = self._write_shard(number, (next(loaded) for _ in of_shard))
            yield number, json.dumps(report).encode()

    def _write_shard(self, number: int, batches: Iterable[Views]) -> Report:
        manifest, name = self.images.manifest, self.names[number]
        source = redacted(manifest.shards[number])
        samples, keys = manifest.samples_of(number), manifest.names_in(number)
        new_keys = undotted(keys, name)
        moments, bad, done = Moments(self.kinds), [], 0
        part = self.temporary / f"{name}.{secrets.token_hex(4)}.part"
        try:
            with part.open("wb") as file, self.images.reader.open_shard(number) as shard:
                copied = further_members(shard, source, keys)
                # Fixed owner and time, so that writing twice gives the same bytes.
                fixed: dict[str, Any] = {"encoder": False, "mtime": 0, "user": "mae"}
                with webdataset.TarWriter(file, **fixed, group="mae") as tar:
                    for batch in batches:
                        self.skipped.add(batch.bad)
                        bad += [one.reason for one in batch.bad]
                        if batch.images is None:
                            continue
                        arrays = self.maker.arrays(batch.images)
                        moments.add(arrays)
                        for row, sample in enumerate(batch.samples):
                            place = sample - samples.start
                            further = copied.of_key[keys[place]]
                            record = {"__key__": new_keys[place], **record_of(arrays, row)}
                            for extension, one in further.items():
                                content = read_member(shard, source, one)
                                record.setdefault(extension, content)
                            tar.write(record)
                            done += 1
                file.flush()
                os.fsync(file.fileno())
            if done:
                part.replace(self.out / name)
                shard_index(str(self.out / name))
        except OSError as error:  # only of writing: reading has StorageErrors of its own
            raise StorageError(f"{self.out}: cannot be written: {error.strerror}") from None
        finally:
            discard(part)
        return {
            "images": done,
            "bad": bad,
            "sums": moments.state(),
            "left_out": dict(copied.left_out),
            "renamed": sum(one != other for one, other in zip(keys, new_keys, strict=True)),
        }


def record_of(arrays: Mapping[str, Array], row: int) -> dict[str, Any]:
    """Members of one sample."""
    return {member(name): npy(values[row]) for name, values in arrays.items()}


def shard_names(manifest: Manifest) -> list[str]:
    """File names of shards; UserError where two are the same, or a command makes one."""
    names = [*map(file_name, manifest.shards)]
    for shard, name in zip(manifest.shards, names, strict=True):
        if shard.startswith("pipe:") or not name.endswith(".tar"):
            raise UserError(f"{name}: shards of latents keep the names, which must end in .tar")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{double}: shards of the same name: write them to folders of their own")
    return names
