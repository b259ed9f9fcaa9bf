"""Features to evaluate: of shards, through the cache of a run, or of feature files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.config.sections import Config
from mae.data.class_matching import match_note, renumber
from mae.data.columns import chunks
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.opening import open_labelled
from mae.evaluation.encoders import (
    PRETRAINED,
    FrozenEncoder,
    open_encoder,
)
from mae.evaluation.feature_cache import FOLDER, SUFFIX, load_or_encode
from mae.evaluation.features import BATCH, encoder_outputs, missing_features
from mae.evaluation.features_file import FeatureSet, read_features
from mae.evaluation.labels import check_labels, feature_labels, manifest_labels
from mae.evaluation.pixel_encoders import pixel_encoder
from mae.evaluation.results import SAME, TRAINED_ENCODERS, Subject, prefixed_log
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import NOTHING, results_folder

NEAR_BITS = 22
"""bits of a CRC-32 by which training images are preselected"""


class Comparison(NamedTuple):
    """Features of the encoders to compare, the evaluated one first, then the baselines."""

    subjects: list[Subject]
    step: int | None
    """steps of pretraining; None: unknown"""
    seen: int | None
    """number of test images that are byte for byte in train; None: unknown, for feature files of
    different data"""
    objective: str | None = None
    """objective of the run; None: unknown, for exports and feature files"""
    matched: str = ""
    """line on how the classes of test and train were matched; "": by the same names"""
    lines: Sequence[str] = ()
    """lines on weights of others: counts, assumptions, licence"""


def open_sources(
    run: Path | None,
    train: Sequence[str],
    test: Sequence[str],
    *,
    command: str,
    baselines: bool = False,
    classes: int | None = None,
    read_with: Callable[[Config], Config] = lambda config: config,
    out: Path | None = None,
    device: str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    log: Callable[[str], None] = print,
    options: WeightOptions = NOTHING,
    portion: Portion = ALONE,
) -> Comparison:
    """Encode the shards `train` and `test` with the encoder of `run`, or open two feature files.

    `read_with` completes the settings of `run` by those of this call, for reading the shards.  With
    `baselines` features of the untrained encoder and raw pixels are added.  `out`: file of the
    report, where that is set; messages name the `command`; `options`: of weights that do not
    record their settings; `portion`: that of this process in the encoding.  Raises UserError for
    labels that do not fit (`check_labels`), feature files together with a run, and encoders without
    pooled features.
    """
    files = [source.endswith(SUFFIX) for source in (*train, *test)]
    if run is None:
        if options != NOTHING:
            raise UserError("--num-heads, --mean, --std: need RUN; feature files have no encoder")
        return _open_files(train, test, baselines, classes, log)
    if any(files):
        raise UserError("feature files (.safetensors) need no RUN: omit it")

    opened, folder = open_encoder(run, options), results_folder(run, out) / FOLDER
    for line in opened.lines:
        log(f"weights {line}")
    if not encoder_outputs(
        opened.module, opened.encoder.encode, opened.encoder.img_size, opened.config
    ).vectors:
        raise missing_features(run, opened.objective, "pooled features", command)
    config = read_with(opened.config)
    train_images, test_images, matched = portion.first_before_others(
        lambda: open_train_and_test(train, test, config)
    )
    names = train_images.manifest.class_names
    check_labels(
        manifest_labels(train_images.manifest), manifest_labels(test_images.manifest), classes
    )
    seen = seen_in_train(train_images.manifest, test_images.manifest, log)

    def encoded(encoder: FrozenEncoder, module: nn.Module | None) -> Subject:
        if module is not None:
            module.to(device).eval()
        first, second = (
            load_or_encode(
                encoder,
                images,
                folder,
                device=device,
                batch_size=batch_size,
                workers=workers,
                max_bad=opened.config.data.max_bad,
                step=opened.step if encoder.name in TRAINED_ENCODERS else None,
                portion=portion,
                log=prefixed_log(log, encoder.name),
            )
            for images in (train_images, test_images)
        )
        return Subject(encoder.name, first, second)

    subjects = [encoded(opened.encoder, opened.module)]
    if baselines:
        module, encoder = opened.untrained()
        subjects.append(encoded(encoder, module))
        pixels = pixel_encoder(opened.config, encoder.img_size, encoder.crop_pct)
        subjects.append(encoded(pixels, None))
    decoded = (feature_labels(part) for part in (subjects[0].train, subjects[0].test))
    check_labels(*(part._replace(class_names=names) for part in decoded), classes=classes)
    return Comparison(
        subjects=subjects,
        step=opened.step,
        seen=seen,
        objective=opened.objective,
        matched=matched,
        lines=opened.lines,
    )


def open_train_and_test(
    train: Sequence[str], test: Sequence[str], config: Config
) -> tuple[Images, Images, str]:
    """Labelled images of both, and a line on how their classes match; "": by the same names."""
    train_images, _ = open_labelled(train, "--train", config, (), "")
    names = train_images.manifest.class_names
    test_images, matched = open_labelled(test, "--test", config, names, "--train")
    return train_images, test_images, matched


def _open_files(
    train: Sequence[str],
    test: Sequence[str],
    baselines: bool,
    classes: int | None,
    log: Callable[[str], None],
) -> Comparison:
    if len(train) != 1 or len(test) != 1:
        raise UserError("without a run folder, --train and --test are one feature file each")
    if baselines:
        raise UserError("--baselines: needs a run folder and shards; features have no encoder")
    train_features, test_features = (read_features(Path(file)) for file in (train[0], test[0]))
    for key, part in (("--train", train_features), ("--test", test_features)):
        if dropped := part.dropped():
            log(f"{key}: {part.path} is without {len(dropped):,} bad images, first {dropped[0]}")
    subject = Subject(
        train_features.metadata.get("name", PRETRAINED), train_features, test_features
    )
    for key in SAME:
        ours, theirs = (part.metadata.get(key) for part in (train_features, test_features))
        if ours != theirs:
            raise UserError(f"--train, --test: features of another {key}: {ours} and {theirs}")
    ours, theirs = train_features.class_names(), test_features.class_names()
    numbers = renumber(test_features.labels, theirs, ours, "--test", "--train")
    check_labels(feature_labels(train_features), feature_labels(test_features), classes)
    subject = subject._replace(test=test_features._replace(labels=numbers))
    step = train_features.metadata.get("step")
    return Comparison(
        [subject],
        int(step) if step else None,
        _shared_rows(train_features, test_features, log),
        matched=match_note(theirs, ours, "--test", "--train"),
    )


def _shared_rows(train: FeatureSet, test: FeatureSet, log: Callable[[str], None]) -> int | None:
    """Number of test rows that are in train; warns of them.  None for features of other data."""
    ours, theirs = (part.metadata.get("data") for part in (train, test))
    if ours is None or ours != theirs:
        return None
    return _warned(int(np.isin(test.samples, train.samples).sum()), "--train", log)


def seen_in_train(
    train: Manifest, test: Manifest, log: Callable[[str], None], key: str = "--train"
) -> int:
    """Number of test images whose bytes (length and CRC-32) occur in train; warns of them.

    `key` is the name of `train` in messages.
    """
    return _warned(count_seen(train, test), key, log)


def count_seen(train: Manifest, test: Manifest) -> int:
    """Number of test images whose bytes (length and CRC-32) occur in train."""
    ours = _contents(np.asarray(test.size), np.asarray(test.crc))
    seen = np.zeros(len(ours), bool)
    # Rows with the low bits of some test image: few of perhaps a billion are compared in full.
    is_near = np.zeros(1 << NEAR_BITS, bool)
    low = np.uint32(len(is_near) - 1)
    is_near[np.asarray(test.crc) & low] = True
    for size, crc in zip(chunks(train.size), chunks(train.crc), strict=True):
        near = np.flatnonzero(is_near[crc & low])
        if len(near):
            seen |= np.isin(ours, _contents(size[near], crc[near]))
    return int(seen.sum())


def _contents(size: npt.NDArray[np.uint32], crc: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Length and CRC-32 of each image as one number."""
    return (size.astype(np.uint64) << np.uint64(32)) | crc


def _warned(seen: int, key: str, log: Callable[[str], None]) -> int:
    if seen:
        log(f"warning: {seen:,} of the test images are in {key} too, byte for byte")
    return seen
