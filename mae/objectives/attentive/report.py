"""Report of `mae attentive`: settings selected, a head trained by them, tested once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mae.base.errors import UserError
from mae.evaluation.encoders import TOKENS
from mae.evaluation.feature_cache import identity
from mae.evaluation.features import blank_vectors
from mae.evaluation.labels import check_labels, manifest_labels, sample_labels
from mae.evaluation.probing import ProbeRequest
from mae.evaluation.results import (
    INTERVAL,
    baseline,
    evaluated_images,
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
from mae.objectives.attentive.token_source import encoded_data

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
    """Probe each encoder; returns the report.

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
    epochs = options.epochs or epochs_for(len(train.manifest), options.batch_size)
    encoded, is_cached = encoded_data(request, epochs)
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
