"""Source of the tokens of `mae attentive`: a cache that all processes fill, or each epoch anew."""

import math
from pathlib import Path

from mae.base.device import loader_count
from mae.base.disk_space import free_bytes, gigabytes
from mae.base.parts_folder import bytes_done
from mae.data.images import Images
from mae.data.views import CentredViews
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.encoding import AHEAD, features_bytes
from mae.evaluation.feature_cache import (
    FOLDER,
    cache_path,
    find_cached,
    identity,
    load_or_encode,
)
from mae.evaluation.probing import ProbeRequest, on_first
from mae.evaluation.results import TRAINED_ENCODERS, prefixed_log
from mae.evaluation.usable_samples import UsableSamples, usable_samples
from mae.objectives.attentive.probe import EncodedData
from mae.objectives.attentive.tokens import CachedTokens, EncodedTokens, Tokens

MAX_DISK_SHARE = 0.9
"""maximum share of the free disk space for cached tokens"""


def encoded_data(request: ProbeRequest, epochs: int) -> tuple[list[EncodedData], bool]:
    """Tokens of --train and --test by each encoder; True where those that were missing are cached.

    Before, the first process logs what that costs.  Raises UserError where more than data.max_bad
    images of either are unreadable.
    """
    is_cached = on_first(request.portion, lambda: tokens_fit(request, epochs))
    usable: dict[str, UsableSamples] = {}
    encoded = [
        EncodedData(
            name,
            _tokens_of(request, name, "train", is_cached, usable),
            _tokens_of(request, name, "test", is_cached, usable),
        )
        for name in request.encoders
    ]
    return encoded, is_cached


def tokens_fit(request: ProbeRequest, epochs: int) -> bool:
    """True if the tokens that are not cached yet fit on the disk; logs the cost of both ways."""
    missing = [
        (cache_path(_folder(request), identity(encoder, images), tokens=True), encoder, images)
        for encoder in request.encoders.values()
        for images in (request.train, request.test)
        if _cached_file(request, encoder, images) is None
    ]
    if not missing:
        return True
    sizes = [features_bytes(encoder, images, tokens=True) for _, encoder, images in missing]
    still_needed = sum(sizes) - sum(bytes_done(path) for path, *_ in missing)
    needed = sum(sizes)
    free, most, folder = free_bytes(_folder(request)), request.options.token_gb, _folder(request)
    once = f"{sum(len(images.manifest) for *_, images in missing):,} images to encode once"
    often = f"{encodings(request, epochs):,} in {epochs} epoch{'s' * (epochs > 1)}"
    if needed > most * 1e9:
        reason = f"more than --token-gb {most:g}"
        remedy = f"--token-gb {math.ceil(needed / 1e8) / 10:g} caches them"
    elif still_needed + min(needed, AHEAD) > MAX_DISK_SHARE * free:
        reason = f"but {gigabytes(free)} of the disk are free"
        remedy = "with more room they are cached"
    else:
        line = f"cached in {folder}: {once} (without the cache {often})"
        request.log(f"tokens: {gigabytes(needed)}, {line}")
        return True
    line = f"not cached, but encoded in every epoch: {often} instead of {once}"
    remedy = f"{remedy}, fewer --epochs take less time"
    request.log(f"tokens: {gigabytes(needed)}, {reason}: {line}; {remedy}")
    return False


def encodings(request: ProbeRequest, epochs: int) -> int:
    """Number of images to encode without a cache: for choosing, for training on all, for tests."""
    train, test = len(request.train.manifest), len(request.test.manifest)
    chosen_on = train // 10
    of_one = epochs * (train - chosen_on) + chosen_on + epochs * train + test
    return of_one * len(request.encoders)


def _tokens_of(
    request: ProbeRequest, name: str, key: str, is_cached: bool, usable: dict[str, UsableSamples]
) -> Tokens:
    """Tokens of the data set `key` by the encoder `name`, cached or encoded in every epoch.

    All processes together fill the cache, or decode all images once to find the readable ones; of
    one data set these are the same for all encoders, and in `usable`.
    """
    encoder, workers = request.encoders[name], loader_count(request.options.workers)
    images: Images = getattr(request, key)
    max_bad, log = request.opened.config.data.max_bad, prefixed_log(request.log, name)
    is_made = on_first(request.portion, lambda: _cached_file(request, encoder, images) is not None)
    if not is_cached and not is_made:
        if key not in usable:
            usable[key] = usable_samples(
                CentredViews(images, encoder.img_size, encoder.crop_pct),
                max_bad,
                _folder(request) / f"usable-{key}",
                workers=workers,
                portion=request.portion,
                log=request.log,
            )
        return EncodedTokens(encoder, images, request.device, workers, usable[key])
    with request.on_device(name):
        found = load_or_encode(
            encoder,
            images,
            _folder(request),
            tokens=True,
            device=request.device,
            workers=workers,
            max_bad=max_bad,
            step=request.opened.step if name in TRAINED_ENCODERS else None,
            portion=request.portion,
            log=log,
        )
    return CachedTokens(found, request.device)


def _cached_file(request: ProbeRequest, encoder: FrozenEncoder, images: Images) -> Path | None:
    """Cache file with all tokens of the images, where there is one."""
    return find_cached(_folder(request), identity(encoder, images), tokens=True)


def _folder(request: ProbeRequest) -> Path:
    return request.folder / FOLDER
