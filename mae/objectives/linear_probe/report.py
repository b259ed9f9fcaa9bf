"""Report of `mae probe --protocol mae`: a head trained on each encoder, tested once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mae.base.device import loader_count
from mae.data.images import Images
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import identity
from mae.evaluation.features import BATCH, blank_vectors, preferred_feature, uses_bf16
from mae.evaluation.labels import ClassNumbers, check_labels, manifest_labels, sample_labels
from mae.evaluation.probing import PlannedSchedule, ProbeRequest, replaced_images
from mae.evaluation.results import (
    INTERVAL,
    TRAINED_ENCODERS,
    baseline,
    evaluated_images,
    label_ranks,
    prefixed_log,
    provenance,
    ranking_result,
    result_rows,
)
from mae.objectives.linear_probe.centred_vectors import CentredVectors, centred_vectors
from mae.objectives.linear_probe.model import LinearProbe
from mae.objectives.linear_probe.recipe import MOMENTUM, SCALE, ProbeRecipe, remarks, run_settings

NAME = "probe-mae"
"""name of the run folder, and of the report's file"""

MEASURES = (
    "linear separability of the classes in the frozen class token, by the protocol of the MAE paper"
)
PROTOCOL = (
    "linear classifier behind a BatchNorm on frozen features, LARS, random crops (He et al. 2021, "
    "table 10)"
)


def linear_probe(request: ProbeRequest) -> Mapping[str, Any]:
    """Train a head on each encoder and test it once; the report, empty on other processes.

    All processes encode the test images, and train.  Raises UserError before training for labels
    that do not fit (`check_labels`) and for more than data.max_bad unreadable test images; during
    training as a run does.
    """
    recipe, flip = recipe_of(request), request.opened.config.data.flip
    train, test = request.train, request.test
    numbers = check_labels(manifest_labels(train.manifest), manifest_labels(test.manifest))
    check_labels(
        manifest_labels(train.manifest), manifest_labels(test.manifest), request.options.classes
    )
    labels = np.unique(np.asarray(train.manifest.label)).tolist()
    folders = {
        name: request.folder / f"{NAME}{'' if name in TRAINED_ENCODERS else f'-{name}'}"
        for name in request.encoders
    }
    configs = {
        name: run_settings(request, encoder, recipe, labels, str(folders[name]))
        for name, encoder in request.encoders.items()
    }
    config = next(iter(configs.values()))
    plan = request.plan(config, len(train.manifest))
    notes = list(remarks(recipe, len(train.manifest), plan.steps, flip))
    for note in notes:
        request.log(f"note: {note}")
    results, parts = [], []
    constant: dict[str, Any] = {}
    for name, encoder in request.encoders.items():
        # Before training, so that unreadable test images end the command early.
        tested = encode_test(request, name, encoder)
        probe = request.fit(configs[name])
        if tested is None:
            continue
        assert isinstance(probe, LinearProbe)
        skipped = replaced_images(folders[name], train.manifest)
        for reason in skipped:
            prefixed_log(request.log, name)(f"replaced by others: {reason}")
        numbers = tested_numbers(train, test, tested)
        head = probe.head.eval()
        ranks = head_ranks(head, tested.vectors, numbers.test, request.device)
        feature = preferred_feature(blank_vectors(encoder, config.data.in_chans))
        constant = baseline(
            test.manifest.label[tested.samples].astype(np.int64), test.manifest.class_names
        )
        results.append(ranking_result(name, feature, ranks, numbers.count, {}))
        parts.append((evaluated_images(train, skipped), evaluated_images(test, tested.skipped)))
    if not parts:
        return {}
    known = identity(next(iter(request.encoders.values())), train)
    precision = f"computed in {'bfloat16' if uses_bf16(request.device) else 'float32'}"
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": "none: the head of the last epoch is evaluated on the test set once",
        "recipe": recorded(recipe, plan, config.optim.warmup_epochs, flip),
        "notes": notes,
        "interval_rule": INTERVAL,
        "classes": numbers.count,
        **constant,
        **provenance({**known, "precision": precision}, *parts[0]),
        "results": result_rows(results, numbers.test, recipe.seed),
    }


def recipe_of(request: ProbeRequest) -> ProbeRecipe:
    """Recipe from the options of the command line."""
    options, defaults = request.options, ProbeRecipe()
    return ProbeRecipe(
        epochs=options.epochs or defaults.epochs,
        batch_size=options.step_batch,
        blr=options.blr or defaults.blr,
        warmup_epochs=options.warmup_epochs,
        device_batch=options.device_batch or defaults.device_batch,
        seed=options.seed,
    )


def recorded(
    recipe: ProbeRecipe, plan: PlannedSchedule, warmup_epochs: float, flip: bool
) -> dict[str, Any]:
    """Entry "recipe" of the report."""
    return {
        "epochs": recipe.epochs,
        "batch_size": plan.batch_size,
        "images_at_a_time": plan.device_batch,
        "steps": plan.steps,
        "blr": recipe.blr,
        "lr": plan.lr,
        "warmup_epochs": warmup_epochs,
        "optimizer": f"LARS, momentum {MOMENTUM}, no weight decay",
        "crops": f"random resized, area {SCALE[0]} to {SCALE[1]:g}, cut to the image",
        "flip": flip,
        "seed": recipe.seed,
    }


def encode_test(request: ProbeRequest, name: str, encoder: FrozenEncoder) -> CentredVectors | None:
    """Encode the test images on all processes; None on all but the first."""
    with request.on_device(name):
        return centred_vectors(
            encoder,
            request.test,
            request.folder / f"{NAME}-{name}-test",
            request.opened.config.data.max_bad,
            device=request.device,
            batch_size=BATCH,
            workers=loader_count(request.options.workers),
            portion=request.portion,
            log=prefixed_log(request.log, name),
        )


def tested_numbers(train: Images, test: Images, tested: CentredVectors) -> ClassNumbers:
    """Class numbers of the training images and of the decoded test images."""
    return check_labels(
        manifest_labels(train.manifest), sample_labels(test.manifest, tested.samples)
    )


@torch.no_grad()
def head_ranks(
    head: nn.Module,
    vectors: Tensor,
    targets: npt.NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.int64]:
    """Rank of the true class among the scores of `head`, for each of the vectors [n d]; [n]."""
    parts = enumerate(vectors.split(BATCH))
    ranks = [
        label_ranks(head(part.to(device)), targets[i * BATCH : (i + 1) * BATCH]).cpu()
        for i, part in parts
    ]
    return torch.cat(ranks).numpy()
