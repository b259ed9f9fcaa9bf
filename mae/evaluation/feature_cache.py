"""Cache of frozen features of shards: encoded once, kept in the folder `features` of a run.

A file is identified by everything that determines its numbers (`identity`, in its header), not by
its name, so features of an earlier step, other shards or another crop are never reused.  The
folder can be deleted to free space: features are encoded again when needed.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.progress import duration
from mae.data.images import Images
from mae.data.manifest import Manifest, labels_digest
from mae.data.transform import CENTER_RULE
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.features import BATCH, Skipped, encode_images
from mae.evaluation.features_file import (
    CLASSES,
    FeatureSet,
    FeatureWriter,
    read_features,
    read_header,
)

FOLDER = "features"
SUFFIX = ".safetensors"
EVERY = 10.0
"""seconds between two lines of progress"""


def load_or_encode(
    encoder: FrozenEncoder,
    images: Images,
    folder: Path,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    max_bad: int = 0,
    step: int | None = None,
    log: Callable[[str], None] = print,
) -> FeatureSet:
    """Features of `images` from the cache `folder`, encoded first where they are not there.

    `step` is recorded in the file.  Raises UserError as `write_features` does, also where the bad
    images were found when the cache was filled.
    """
    wanted = identity(encoder, images)
    if (path := find_cached(folder, wanted, tokens)) is not None:
        log(f"features of {len(images.manifest):,} images: {path}, made before")
        with suppress(OSError):  # marks it as used, for a clean-up by age; it may be another user's
            os.utime(path)
        found = read_features(path)
        _report_dropped(found, images, max_bad, log)
        return found
    name = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    out = folder / f"{name}{f'-{TOKENS}' * tokens}{SUFFIX}"
    log(f"features of {len(images.manifest):,} images: encoding into {out}")
    write_features(
        encoder,
        images,
        out,
        tokens=tokens,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_bad=max_bad,
        step=step,
        log=log,
    )
    return read_features(out)


def find_cached(folder: Path, wanted: Mapping[str, str], tokens: bool) -> Path | None:
    """Smallest file in `folder` with the identity `wanted`, and with patch tokens if `tokens`.

    The file may be without class names.
    """
    found, names = [], wanted.get(CLASSES)
    wanted = {key: value for key, value in wanted.items() if key != CLASSES}
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(UserError, OSError):  # damaged, or deleted meanwhile: it is encoded again
            metadata, columns = read_header(path)
            named_so = metadata.get(CLASSES) in (None, names)
            same = named_so and wanted.items() <= metadata.items()
            if same and (TOKENS in columns or not tokens):
                found.append((path.stat().st_size, path))
    return min(found)[1] if found else None


def copy_features(
    encoder: FrozenEncoder,
    images: Images,
    folder: Path,
    out: Path,
    *,
    tokens: bool,
    step: int | None,
    max_bad: int = 0,
    log: Callable[[str], None] = print,
) -> bool:
    """Copy features from the cache to `out`, if it has what `write_features` would write.

    Raises UserError where more than `max_bad` images are bad.
    """
    wanted = _metadata(encoder, images, step)
    path = find_cached(folder, wanted, tokens)
    if path is None:
        return False
    metadata, columns = read_header(path)
    if (TOKENS in columns) != tokens or metadata.get(CLASSES) != wanted.get(CLASSES):
        return False
    log(f"features of {len(images.manifest):,} images: a copy of {path}, made before")
    _report_dropped(read_features(path), images, max_bad, log)
    with new_file(out) as part:
        shutil.copyfile(path, part)
    return True


def identity(encoder: FrozenEncoder, images: Images) -> dict[str, str]:
    """Everything that determines the features of these images, their labels and class names."""
    manifest, names = images.manifest, images.manifest.class_names
    return {
        **({CLASSES: json.dumps(names)} if names else {}),
        "encoder": encoder.sha256,
        "model": hashlib.sha256(encoder.settings.encode()).hexdigest()[:16],
        "data": manifest.fingerprint,
        "labels": labels_digest(manifest),
        "channels": str(images.channels),
        "bits": str(images.bits),
        "img_size": "x".join(map(str, encoder.img_size)),
        "crop_pct": str(encoder.crop_pct),
        "view": CENTER_RULE,
        "pixels": encoder.pixels,
        "precision": "computed in float32, kept in float16",
    }


def write_features(
    encoder: FrozenEncoder,
    images: Images,
    out: Path,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    max_bad: int = 0,
    step: int | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Encode `images` into the file `out`, holding one batch in memory.

    Bad images have no row and are named in the file.  Raises UserError, and leaves no file, where
    more than `max_bad` images are bad, or all are.
    """
    manifest = images.manifest
    metadata = _metadata(encoder, images, step)
    skipped = Skipped(images, max_bad)
    samples: list[int] = []
    writer: FeatureWriter | None = None
    progress = _Progress(len(manifest), log)
    with new_file(out) as part, part.open("w+b") as file:
        for batch in encode_images(
            encoder, images, tokens=tokens, device=device, batch_size=batch_size, workers=workers
        ):
            skipped.add(batch.bad)
            if batch.vectors:
                shapes = {name: vectors.shape[1:] for name, vectors in batch.vectors.items()}
                writer = writer or FeatureWriter(file, len(manifest), shapes, metadata)
                numbers = np.array(batch.samples)
                labels = manifest.label[numbers]
                writer.append({"label": labels, "sample": numbers, **batch.vectors})
                samples += batch.samples
            progress(len(samples) + len(skipped.reasons))
        assert writer is not None  # else no image was readable, and Skipped has raised
        dropped = "\0".join(skipped.reasons).encode("utf-8", "backslashreplace")
        writer.finish({"name": _names(manifest, samples), "dropped": dropped})
        file.flush()
        os.fsync(file.fileno())
    skipped.report(log)


def _report_dropped(
    found: FeatureSet, images: Images, max_bad: int, log: Callable[[str], None]
) -> None:
    """Log the images without a row; raises UserError for more than `max_bad`."""
    skipped = Skipped(images, max_bad)
    skipped.add_reasons(found.dropped())
    skipped.report(log)


def _metadata(encoder: FrozenEncoder, images: Images, step: int | None) -> dict[str, str]:
    known = {**identity(encoder, images), "name": encoder.name}
    return known if step is None else {**known, "step": str(step)}


def _names(manifest: Manifest, samples: list[int]) -> bytes:
    """`shard: key KEY` of each sample, joined by NUL."""
    names = []
    starts = zip(manifest.keys, manifest.first.tolist(), manifest.counts().tolist(), strict=True)
    wanted = np.zeros(len(manifest), bool)
    wanted[samples] = True
    for keys, first, count in starts:
        if count:
            shard = manifest.shard_name(first).encode("utf-8", "backslashreplace")
            for number, key in enumerate(keys.split(b"\0"), first):
                if wanted[number]:
                    names.append(shard + b": key " + key)
    return b"\0".join(names)


class _Progress:
    """Progress line every EVERY seconds: images encoded, images/s, remaining time."""

    def __init__(self, total: int, log: Callable[[str], None]) -> None:
        self.total, self.log = total, log
        self.start = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last < EVERY and done < self.total:
            return
        self.last = now
        speed = done / max(now - self.start, 1e-9)
        rest = f"  ETA {duration((self.total - done) / speed)}" if done < self.total else ""
        self.log(f"  {done:,}/{self.total:,}  {speed:,.0f} images/s{rest}")
