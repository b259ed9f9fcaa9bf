"""Frozen features of shards, encoded once: kept in the folder `features` of a run.

A file is named by the sha256 of all that decides its numbers (`identity`), so that a run that
went on, other shards or another crop never meet the features of before.  Delete the folder to
free the space: what is needed is made again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from mae.config import Config
from mae.data.images import BadSample, Images
from mae.data.manifest import Manifest
from mae.errors import UserError
from mae.evaluation.encoders import TOKENS, FrozenEncoder, objective_encoder
from mae.evaluation.features import encode_images
from mae.evaluation.features_file import FeatureSet, FeatureWriter, new_file, read_features
from mae.objective import Objective
from mae.training.tracking import duration

FOLDER = "features"
BATCH = 256
EVERY = 10.0
"""seconds between two lines of progress"""


def cached_features(
    run_folder: Path,
    config: Config,
    objective: Objective,
    images: Images,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> FeatureSet:
    """The features of `images`, from the run's cache, or encoded now and put there.

    At most data.max_bad bad images are left out, and named.  Raises UserError where there are more,
    or the cache cannot be written.
    """
    return features_of(
        objective_encoder(config, objective.to(device).eval()),
        images,
        run_folder / FOLDER,
        tokens=tokens,
        device=device,
        workers=workers,
        max_bad=config.data.max_bad,
        say=say,
    )


def features_of(
    encoder: FrozenEncoder,
    images: Images,
    folder: Path,
    *,
    tokens: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    max_bad: int = 0,
    say: Callable[[str], None] = print,
) -> FeatureSet:
    """As `cached_features`, for any encoder and any folder."""
    name = hashlib.sha256(json.dumps(identity(encoder, images)).encode()).hexdigest()[:16]
    with_tokens = folder / f"{name}-{TOKENS}.safetensors"
    out = with_tokens if tokens else folder / f"{name}.safetensors"
    for path in (out, with_tokens):  # which has everything
        if path.exists():
            say(f"features of {len(images.manifest):,} images: {path}, made before")
            with suppress(OSError):  # for whoever clears the folder up; it may be someone else's
                os.utime(path)
            return read_features(path)
    say(f"features of {len(images.manifest):,} images: encoding into {out}")
    write_features(
        encoder,
        images,
        out,
        tokens=tokens,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_bad=max_bad,
        say=say,
    )
    return read_features(out)


def identity(encoder: FrozenEncoder, images: Images) -> dict[str, str]:
    """All that decides the features of these images, and their labels."""
    manifest = images.manifest
    return {
        "encoder": encoder.sha256,
        "data": manifest.fingerprint,
        "labels": hashlib.sha256(manifest.label.tobytes()).hexdigest(),
        "channels": str(images.channels),
        "bits": str(images.bits),
        "img_size": "x".join(map(str, encoder.img_size)),
        "crop_pct": f"{encoder.crop_pct:g}",
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
    say: Callable[[str], None] = print,
) -> None:
    """Encode `images` into the file `out`, in memory for some batches only.

    Bad images have no row, and are named in the file.  Raises UserError where there are more
    than `max_bad` of them, or none is good; nothing is left then.
    """
    manifest = images.manifest
    metadata = identity(encoder, images)
    if step is not None:
        metadata["step"] = str(step)
    bad: list[BadSample] = []
    samples: list[int] = []
    writer: FeatureWriter | None = None
    progress = _Progress(len(manifest), say)
    with new_file(out) as part, part.open("w+b") as file:
        for batch in encode_images(
            encoder, images, tokens=tokens, device=device, batch_size=batch_size, workers=workers
        ):
            bad += batch.bad
            if len(bad) > max_bad:
                raise UserError(
                    f"{bad[0].reason} (one of {len(bad)} bad images so far, more than "
                    f"data.max_bad = {max_bad})"
                )
            if batch.vectors:
                shapes = {name: vectors.shape[1:] for name, vectors in batch.vectors.items()}
                writer = writer or FeatureWriter(file, len(manifest), shapes, metadata)
                numbers = np.array(batch.samples)
                labels = manifest.label[numbers]
                writer.append({"label": labels, "sample": numbers, **batch.vectors})
                samples += batch.samples
            progress(len(samples) + len(bad))
        if writer is None:
            raise UserError(f"{bad[0].reason} (none of {len(manifest)} images is readable)")
        dropped = "\0".join(one.reason for one in bad).encode("utf-8", "backslashreplace")
        writer.end({"name": _names(manifest, samples), "dropped": dropped})
        file.flush()
        os.fsync(file.fileno())
    for one in bad:
        say(f"left out: {one.reason}")


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
    """A line now and then: how many, how fast, how long still."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.say = total, say
        self.began = self.told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.told < EVERY and done < self.total:
            return
        self.told = now
        speed = done / max(now - self.began, 1e-9)
        rest = f"  ETA {duration((self.total - done) / speed)}" if done < self.total else ""
        self.say(f"  {done:,}/{self.total:,}  {speed:,.0f} images/s{rest}")
