"""Cache of frozen features of shards: encoded once, kept in the folder `features` of a run.

A file is identified by everything that determines its numbers (`identity`, in its header), not by
its name, so features of an earlier step, other shards or another crop are never reused.  The
folder can be deleted to free space: features are encoded again when needed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.base.portion import ALONE, Portion
from mae.data.images import Images
from mae.data.manifest import labels_digest
from mae.data.transform import CENTER_RULE
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.encoding import write_features
from mae.evaluation.features import BATCH, Skipped
from mae.evaluation.features_file import (
    CLASSES,
    FeatureSet,
    read_features,
    read_header,
)

FOLDER = "features"
SUFFIX = ".safetensors"


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
    portion: Portion = ALONE,
    log: Callable[[str], None] = print,
) -> FeatureSet:
    """Features of `images` from the cache `folder`, encoded first where they are not there.

    All processes of a launch encode their `portion`, and return all features.  `step` is recorded
    in the file.  Raises UserError as `write_features` does, also where the bad images were found
    when the cache was filled.
    """
    wanted = identity(encoder, images)

    def cached() -> Path | None:
        # The first process decides: the others may look a moment later.
        return portion.gather(portion.joins and find_cached(folder, wanted, tokens))[0] or None

    if (path := cached()) is None:
        path = cache_path(folder, wanted, tokens)
        is_new = write_features(
            encoder,
            images,
            path,
            features_metadata(encoder, images, step),
            tokens=tokens,
            device=device,
            batch_size=batch_size,
            workers=workers,
            max_bad=max_bad,
            portion=portion,
            made=cached,
            log=log,
        )
        if is_new:
            return read_features(path)
        path = cached()
        assert path is not None
    log(f"features of {len(images.manifest):,} images: {path}, made before")
    with suppress(OSError):  # marks it as used, for a clean-up by age; it may be another user's
        os.utime(path)
    found = read_features(path)
    _report_dropped(found, images, max_bad, log)
    return found


def cache_path(folder: Path, wanted: Mapping[str, str], tokens: bool) -> Path:
    """File in which features with the identity `wanted` are cached, unless another has them."""
    name = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    return folder / f"{name}{f'-{TOKENS}' * tokens}{SUFFIX}"


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
    wanted = features_metadata(encoder, images, step)
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


def _report_dropped(
    found: FeatureSet, images: Images, max_bad: int, log: Callable[[str], None]
) -> None:
    """Log the images without a row; raises UserError for more than `max_bad`."""
    skipped = Skipped(images, max_bad)
    skipped.add_reasons(found.dropped())
    skipped.report(log)


def features_metadata(encoder: FrozenEncoder, images: Images, step: int | None) -> dict[str, str]:
    """Header of a file of features: their identity, the encoder's name, and `step` if known."""
    known = {**identity(encoder, images), "name": encoder.name}
    return known if step is None else {**known, "step": str(step)}
