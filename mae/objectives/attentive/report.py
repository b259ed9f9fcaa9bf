"""Report of `mae attentive`: settings selected, a head trained by them, tested once."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae.base.errors import UserError
from mae.data.images import Images
from mae.data.views import CentredViews
from mae.evaluation.encoders import TOKENS, FrozenEncoder
from mae.evaluation.feature_cache import FOLDER, find_cached, identity, load_or_encode
from mae.evaluation.features import blank_vectors, usable_samples
from mae.evaluation.features_file import read_features
from mae.evaluation.labels import check_labels, manifest_labels, sample_labels
from mae.evaluation.probing import ProbeRequest
from mae.evaluation.results import (
    INTERVAL,
    TRAINED_ENCODERS,
    baseline,
    evaluated_images,
    prefixed_log,
    provenance,
    ranking_result,
    result_rows,
)
from mae.objectives.attentive.declaration import HeadSettings
from mae.objectives.attentive.probe import (
    BETAS,
    CANDIDATES,
    LEAST_STEPS,
    AttentiveRecipe,
    EncodedData,
    ProbeResult,
    attentive_probe,
    epochs_for,
)
from mae.objectives.attentive.tokens import (
    CachedTokens,
    EncodedTokens,
    Tokens,
    token_bytes,
)

MAX_DISK_SHARE = 0.9
"""maximum share of the free disk space for cached tokens"""

MEASURES = (
    "separability of the classes by attention over all frozen tokens; as published for ImageNet, "
    "MAE's number lies between those of a linear probe and of fine-tuning"
)
PROTOCOL = (
    "attention pooling with a learned query over all frozen tokens, LayerNorm, linear classifier; "
    "AdamW, cosine"
)
SELECTION = (
    "learning rate and weight decay by accuracy on a tenth of the training images; a new head on "
    "all of them is evaluated on the test set once"
)


def attentive(request: ProbeRequest) -> Mapping[str, Any]:
    """Probe each encoder; returns the report, with results on the first process alone.

    Raises UserError for labels that do not fit (`check_labels`), too few images, and encoders
    without patch tokens.
    """
    options, train, test = request.options, request.train, request.test
    check_labels(manifest_labels(train.manifest), manifest_labels(test.manifest))
    for encoder in request.encoders.values():
        if TOKENS not in blank_vectors(encoder, train.channels):
            is_run = request.opened.step is not None
            name = f"objective {request.opened.config.objective}" if is_run else "this encoder"
            raise UserError(f"{options.run}: {name} has no patch tokens; mae attentive needs them")
    is_cached = request.share(request.on_first(lambda: tokens_fit(request)))
    encoded = [
        EncodedData(name, *(tokens_of(request, name, one, is_cached) for one in (train, test)))
        for name in request.encoders
    ]
    epochs = options.epochs or epochs_for(len(train.manifest), options.batch_size)
    recipe = AttentiveRecipe(epochs, options.batch_size, options.seed)
    report = attentive_report(request, encoded, recipe)
    report["recipe"]["tokens"] = "cached" if is_cached else "encoded each epoch"
    report["recipe"]["least_steps"] = None if options.epochs else LEAST_STEPS
    return report


def attentive_report(
    request: ProbeRequest,
    encoded: Sequence[EncodedData],
    recipe: AttentiveRecipe,
    candidates: Sequence[HeadSettings] = CANDIDATES,
) -> dict[str, Any]:
    """Probe each encoder of `encoded` (first the one of RUN, then baselines); the report."""
    train, test, first = request.train, request.test, encoded[0]
    numbers = check_labels(
        sample_labels(train.manifest, first.train.samples),
        sample_labels(test.manifest, first.test.samples),
    )
    results, notes, steps = [], [], recipe.steps(len(numbers.train))
    if steps < LEAST_STEPS:
        notes.append(f"{steps:,} steps: more --epochs, for {LEAST_STEPS:,}, may do better")
    for data in encoded:
        name, result = data.encoder, attentive_probe(request, data, numbers, recipe, candidates)
        more = {**result.selected.model_dump(), "lr_at_edge": result.lr_at_edge}
        more |= {"sweep": sweep(result, candidates)}
        if result.lr_at_edge:
            edge = f"lr {result.selected.lr:g} at the edge of the candidates"
            notes.append(f"{name}: {edge}, one beyond may do better")
        if request.is_main:
            results.append(ranking_result(name, "tokens", result.ranks, numbers.count, more))
    known = identity(request.encoders[first.encoder], train)
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": SELECTION,
        "recipe": {**recipe._asdict(), "steps": steps, "betas": list(BETAS)},
        "notes": notes,
        "interval_rule": INTERVAL,
        "classes": numbers.count,
        **baseline(
            test.manifest.label[first.test.samples].astype(np.int64), test.manifest.class_names
        ),
        **provenance(
            known,
            evaluated_images(train, first.train.skipped),
            evaluated_images(test, first.test.skipped),
        ),
        "results": result_rows(results, numbers.test, recipe.seed),
    }


def sweep(result: ProbeResult, candidates: Sequence[HeadSettings]) -> list[dict[str, float]]:
    """Settings of each candidate with its accuracy on the held-out tenth."""
    pairs = zip(candidates, result.accuracies, strict=True)
    return [{**candidate.model_dump(), "accuracy": accuracy} for candidate, accuracy in pairs]


def tokens_of(request: ProbeRequest, name: str, images: Images, is_cached: bool) -> Tokens:
    """Tokens of a data set by the encoder `name`, cached or encoded in every epoch.

    The first process fills the cache, or decodes all images once to find the readable ones.
    Raises UserError where more than data.max_bad images are unreadable.
    """
    encoder, workers = request.encoders[name], request.options.workers
    max_bad = request.opened.config.data.max_bad
    is_made = request.share(request.on_first(lambda: _cache_file(request, encoder, images)))
    if not is_cached and not is_made:
        views = CentredViews(images, encoder.img_size, encoder.crop_pct)
        usable = request.on_first(lambda: usable_samples(views, max_bad, workers=workers))
        return EncodedTokens(encoder, images, request.device, workers, request.share(usable))

    def encode() -> Path | None:
        module = request.modules[name].to(request.device)
        load_or_encode(
            encoder,
            images,
            request.folder / FOLDER,
            tokens=True,
            device=request.device,
            workers=workers,
            max_bad=max_bad,
            step=request.opened.step if name in TRAINED_ENCODERS else None,
            log=prefixed_log(request.log, name),
        )
        module.to("cpu")
        return _cache_file(request, encoder, images)

    path = request.share(request.on_first(encode))
    assert path is not None
    return CachedTokens(read_features(path), request.device)


def tokens_fit(request: ProbeRequest) -> bool:
    """True if the tokens that are not cached yet fit on the disk; prints a line where not."""
    needed = sum(
        token_bytes(encoder, images, "cpu")
        for encoder in request.encoders.values()
        for images in (request.train, request.test)
        if _cache_file(request, encoder, images) is None
    )
    folder = request.folder
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = MAX_DISK_SHARE * shutil.disk_usage(existing).free
    if needed <= min(request.options.token_gb * 1e9, free):
        return True
    request.log(f"{needed / 1e9:,.3g} GB of tokens: not cached, but encoded in every epoch")
    return False


def _cache_file(request: ProbeRequest, encoder: FrozenEncoder, images: Images) -> Path | None:
    """Cache file with all tokens of the images, where there is one."""
    return find_cached(request.folder / FOLDER, identity(encoder, images), tokens=True)
