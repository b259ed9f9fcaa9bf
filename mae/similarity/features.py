"""Features that images are compared by: of an encoder, or pixels, reduced."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.portion import ALONE, Portion
from mae.config.sections import Config, DataConfig
from mae.data.file_manifest import open_files_or_shards
from mae.data.image_files import are_image_files, image_files
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.opening import images_for
from mae.decoding.decode import read_info
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.evaluation.encoders import FrozenEncoder, open_encoder
from mae.evaluation.feature_cache import FOLDER, load_or_encode
from mae.evaluation.features import BATCH, Halves, encoder_outputs, missing_features
from mae.evaluation.features_file import FeatureSet
from mae.evaluation.pixel_encoders import PIXELS, pixel_encoder
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import NOTHING, results_folder
from mae.storage.cache import build_cache

PIXEL_SIZE = (32, 32)
"""size of the centred views whose pixels, reduced to PIXEL_SIDE by `pixel_encoder`, are features"""
LOOKED_AT = 100
"""maximum number of images that are looked at for their channels and bits"""

Log = Callable[[str], None]
ReadWith = Callable[[Config], Config]
"""settings of a model → completed by those of this call"""


class FeatureSource(NamedTuple):
    """Encoder on its device, and how images are read for it."""

    name: str
    """source, as given"""
    encoder: FrozenEncoder
    feature: str
    """name of the feature that is compared"""
    config: Config
    step: int | None
    """steps of training; None: unknown"""
    lines: Sequence[str]
    """lines for the user on weights of others"""
    folder: Path
    """cache of features"""
    device: str

    @property
    def is_pixels(self) -> bool:
        """True where the features are pixels."""
        return self.feature == PIXELS and self.name == PIXELS


class Vectors(NamedTuple):
    """Features of the usable images of a data set."""

    values: Halves
    """[n d], mapped from a file"""
    samples: npt.NDArray[np.int64]
    """[n] numbers of the rows in the manifest"""
    labels: npt.NDArray[np.int64]
    """[n], -1: none"""


def open_features(
    source: str,
    data: Sequence[str],
    *,
    command: str,
    out: Path | None = None,
    feature: str | None = None,
    channels: int | None = None,
    bits: int | None = None,
    options: WeightOptions = NOTHING,
    device: str = "cpu",
    read_with: ReadWith = lambda config: config,
) -> FeatureSource:
    """Open the features `source`: `pixels`, or any source of `open_model` and exports of timm's.

    `data`: images, of which some are looked at for the `channels` and `bits` of pixels, unless
    these are given.  `feature`: name of the feature, if not the encoder's preferred one.  `out`:
    file of the results, as in `results_folder`.  Raises UserError as `open_encoder`, and for
    encoders without pooled features or without that one.
    """
    if source == PIXELS:
        if options != NOTHING:
            raise UserError("--num-heads, --mean, --std: pixels have no weights: leave them out")
        found = _pixel_settings(data, channels, bits, read_with)
        encoder = pixel_encoder(found, PIXEL_SIZE, 1.0)
        folder = (out.parent if out else Path()) / FOLDER
        _require_feature(feature, [PIXELS], source)
        return FeatureSource(source, encoder, PIXELS, found, None, (), folder, device)
    if channels or bits:
        raise UserError("--channels, --bits: are for pixels; a model has its own")
    place = Path(source)
    opened = open_encoder(place, options)
    module, encoder = opened.module.to(device).eval(), opened.encoder
    outputs = encoder_outputs(module, encoder.encode, encoder.img_size, opened.config, device)
    if not outputs.vectors:
        raise missing_features(place, opened.objective, "pooled features", command)
    _require_feature(feature, outputs.vectors, source)
    return FeatureSource(
        name=source,
        encoder=encoder,
        feature=feature or outputs.vectors[0],
        config=read_with(opened.config),
        step=opened.step,
        lines=opened.lines,
        folder=results_folder(place, out) / FOLDER,
        device=device,
    )


def open_data(
    patterns: Sequence[str], key: str, source: FeatureSource, portion: Portion = ALONE
) -> Images:
    """Images of shards, files or folders, read as `source` needs them.

    `key` names them in messages.  The first process reads them before the others.
    """
    return portion.first_before_others(lambda: open_files_or_shards(patterns, key, source.config))


def encoded(
    source: FeatureSource,
    images: Images,
    *,
    batch_size: int = BATCH,
    workers: int = 0,
    max_bad: int | None = None,
    portion: Portion = ALONE,
    log: Log = print,
) -> Vectors:
    """Features of `images`, from the cache or encoded first; each process encodes its `portion`.

    Raises UserError as `load_or_encode`.
    """
    found: FeatureSet = load_or_encode(
        source.encoder,
        images,
        source.folder,
        device=source.device,
        batch_size=batch_size,
        workers=workers,
        max_bad=source.config.data.max_bad if max_bad is None else max_bad,
        step=source.step,
        portion=portion,
        log=log,
    )
    return Vectors(found.vectors[source.feature], found.samples, found.labels)


def pixels_of(source: FeatureSource) -> FeatureSource:
    """Pixels of the same views, reduced, as features: the baseline of `source`."""
    encoder = source.encoder
    pixels = pixel_encoder(source.config, encoder.img_size, encoder.crop_pct)
    return source._replace(name=PIXELS, encoder=pixels, feature=PIXELS, step=None, lines=())


def _require_feature(feature: str | None, names: Sequence[str], source: str) -> None:
    if feature is not None and feature not in names:
        raise UserError(f"--feature {feature}: {source} has {', '.join(names)}")


def _pixel_settings(
    data: Sequence[str], channels: int | None, bits: int | None, read_with: ReadWith
) -> Config:
    """Settings that read images with their own channels and bits, or those given."""
    config = read_with(Config(data=DataConfig(img_size=PIXEL_SIZE, max_bad=0)))
    if channels is None or bits is None:
        kinds = [(1, 8), *_kinds(data, config)]
        channels = channels or max(own for own, _ in kinds)
        bits = bits or max(own for _, own in kinds)
    half = (0.5,) * channels
    own = {"in_chans": channels, "bits": bits, "mean": half, "std": half}
    return config.model_copy(update={"data": config.data.model_copy(update=own)})


def _kinds(data: Sequence[str], config: Config) -> list[tuple[int, int]]:
    """Channels without alpha, and bits, of some of the images, spread over all."""
    if are_image_files(data):
        files = image_files(data, distinct_names=False)
        chosen = [files[n].path for n in _spread(len(files))]
        contents = ((path.read_bytes(), path.suffix[1:].lower()) for path in chosen)
    else:
        settings = config.data
        manifest = build_manifest(data, "images", settings.index_dir, build_cache(settings))
        reader, kind = images_for(config, manifest).reader, manifest.kind
        contents = ((reader.read(n), EXTENSIONS[kind[n]]) for n in _spread(len(manifest)))
    found = []
    for content, extension in contents:
        try:
            info = read_info(content, extension)
        except BadImage:
            continue
        found.append((info.colours, 8 if info.bits <= 8 else 16))
    return found


def _spread(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)).tolist()
