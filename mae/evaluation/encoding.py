"""Encoding of a data set into a file of features, divided among processes."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from mae.base.disk_space import gigabytes, require_room
from mae.base.divided_work import DividedWork, divided_work, part_sizes
from mae.base.errors import RunFailed
from mae.base.parts_folder import bytes_done
from mae.base.portion import ALONE, Portion
from mae.base.progress import ProgressLine
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import BATCH, EncodedBatch, Skipped, blank_vectors, encode_images
from mae.evaluation.features_file import FeatureWriter
from mae.evaluation.parts import do_batches, pack_columns, unpack_columns

PARTS = "features"
"""name of the parts"""
JOINED = "joined"
"""name of the file in which the parts are joined, in their folder"""
NUMBERS = {"label", "sample"}
AHEAD = 10**9
"""bytes of the parts that are joined before they are deleted"""


def features_bytes(
    encoder: FrozenEncoder, images: Images, *, tokens: bool, device: torch.device | str = "cpu"
) -> int:
    """Size of the file of features in bytes, to within a per cent for patch tokens."""
    vectors = blank_vectors(encoder, images.channels, device)
    values = sum(one.numel() for name, one in vectors.items() if tokens or name != TOKENS)
    return len(images.manifest) * (2 * values + 8 * len(NUMBERS))


def bytes_to_write(out: Path, size: int) -> int:
    """Free bytes that a file `out` of features of `size` bytes needs, parts of it done or not."""
    return max(0, size + min(size, AHEAD) - bytes_done(out))


def write_features(
    encoder: FrozenEncoder,
    images: Images,
    out: Path,
    metadata: Mapping[str, str],
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    max_bad: int = 0,
    portion: Portion = ALONE,
    made: Callable[[], object] = lambda: None,
    log: Callable[[str], None] = print,
) -> bool:
    """Encode `images` into the file `out` with `metadata`, holding one part in memory.

    Each process encodes its `portion`; the first writes the file, while the others wait.  An
    interrupted call resumes from the parts beside `out`, which are deleted as they are joined.
    False, and nothing is written, where another command has finished the same work meanwhile, by
    `made`.

    Bad images have no row and are named in the file.  Raises UserError, and writes no file, where
    more than `max_bad` images are bad, or all are, or the disk has no room; PartDone in a task of a
    job array.
    """
    total = len(images.manifest)
    size = features_bytes(encoder, images, tokens=tokens, device=device)
    require_room(out, bytes_to_write(out, size))
    log(f"features of {total:,} images: encoding into {out}, {gigabytes(size)}")
    sizes = part_sizes(total, batch_size)
    kind = torch.device(device).type  # its rounding differs
    plan = json.dumps([dict(metadata), tokens, batch_size, sizes[0], len(sizes), kind])
    with divided_work(out, plan, portion, log) as work:
        if made():
            return False
        skipped = Skipped(images, max_bad)

        def encode(batches: Sequence[range]) -> Iterator[EncodedBatch]:
            """Encode, and fail early where this process alone has too many bad images."""
            for batch in encode_images(
                encoder, images, batches, tokens=tokens, device=device, workers=workers
            ):
                skipped.add(batch.bad)
                yield batch

        def pack(batches: list[EncodedBatch]) -> bytes:
            return _pack(batches, images.manifest)

        show = ProgressLine("encoding", "images", log)
        parts = do_batches(work, PARTS, total, batch_size, encode, pack, show)
        if portion.is_task:
            portion.leave_to_first()
        if portion.joins:
            _join(work, parts, images, out, metadata, max_bad, log)
    return True


def _join(
    work: DividedWork,
    parts: int,
    images: Images,
    out: Path,
    metadata: Mapping[str, str],
    max_bad: int,
    log: Callable[[str], None],
) -> None:
    """Join the parts into `out`, from the first one that is not joined yet."""
    skipped, file_name = Skipped(images, max_bad), work.folder / JOINED
    done, state = work.drained(PARTS)
    if done and not file_name.exists():  # it has become a result, which was deleted since
        work.forget_drained(PARTS)
        raise RunFailed(f"{work.folder}: its parts were joined before: run the same command again")
    state = state or {"rows": 0, "of": _rows(work, parts), "reasons": [], "shapes": None}
    skipped.add_reasons(state["reasons"])
    with file_name.open("r+b" if done else "w+b") as file:
        writer = _writer(file, state, metadata)
        held = 0
        for number, part in enumerate(work.results(PARTS, parts, done), done + 1):
            columns, reasons = unpack_columns(part)
            skipped.add_reasons(reasons)
            if "sample" in columns:
                if writer is None:
                    vectors = sorted(columns.keys() - NUMBERS)
                    state["shapes"] = {name: columns[name].shape[1:] for name in vectors}
                    writer = _writer(file, state, metadata)
                    assert writer is not None
                writer.append(columns)
                state |= {"rows": writer.rows, "reasons": skipped.reasons}
            held += len(part)
            if held >= AHEAD:
                _flush(file)
                work.drain(PARTS, number, state)
                held = 0
        assert writer is not None  # else no image was readable, and Skipped has raised
        is_used = np.zeros(len(images.manifest), bool)
        is_used[writer.column("sample")] = True
        dropped = "\0".join(skipped.reasons).encode("utf-8", "backslashreplace")
        writer.finish({"name": _names(images.manifest, is_used), "dropped": dropped})
        _flush(file)
    file_name.replace(out)
    skipped.report(log)


def _writer(
    file: BinaryIO, state: Mapping[str, Any], metadata: Mapping[str, str]
) -> FeatureWriter | None:
    """Writer that goes on after the rows of `state`; None: the features are not known yet."""
    if state["shapes"] is None:
        return None
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    return FeatureWriter(file, state["of"], shapes, metadata, state["rows"])


def _rows(work: DividedWork, parts: int) -> int:
    """Number of the rows of all parts, from the headers of the parts."""
    rows = 0
    for number in range(parts):
        length = int.from_bytes(work.head(PARTS, number, 8), "little")
        try:
            columns = json.loads(work.head(PARTS, number, 8 + length)[8:])
        except ValueError:
            next(work.results(PARTS, number + 1, number))  # names the damaged file
            raise
        rows += columns["sample"]["shape"][0] if "sample" in columns else 0
    return rows


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _pack(batches: Sequence[EncodedBatch], manifest: Manifest) -> bytes:
    """Columns of a part: features, labels, numbers of the samples."""
    columns: dict[str, npt.NDArray[Any]] = {}
    usable = [batch for batch in batches if batch.vectors]
    if usable:
        columns["sample"] = np.array([sample for batch in usable for sample in batch.samples])
        columns["label"] = manifest.label[columns["sample"]].astype(np.int64)
        for name in usable[0].vectors:
            columns[name] = np.concatenate([batch.vectors[name] for batch in usable])
    return pack_columns(columns, [bad.reason for batch in batches for bad in batch.bad])


def _names(manifest: Manifest, is_used: npt.NDArray[np.bool_]) -> bytes:
    """`shard: key KEY` of each used sample, joined by NUL."""
    names = []
    starts = zip(manifest.keys, manifest.first.tolist(), manifest.counts().tolist(), strict=True)
    for keys, first, count in starts:
        if count:
            shard = manifest.shard_name(first).encode("utf-8", "backslashreplace")
            for number, key in enumerate(keys.split(b"\0"), first):
                if is_used[number]:
                    names.append(shard + b": key " + key)
    return b"\0".join(names)
