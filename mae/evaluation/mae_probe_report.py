"""The report of the paper's linear probe: `mae probe --protocol mae`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mae.config import Config
from mae.data.images import Images
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import identity
from mae.evaluation.labels import check_labels, of_manifest, of_samples
from mae.evaluation.mae_probe import (
    BATCH_SIZE,
    MOMENTUM,
    SCALE,
    WARMUP,
    Kept,
    Plan,
    ProbeRecipe,
    make_plan,
    train_head,
)
from mae.evaluation.mae_probe_head import (
    blank_vectors,
    centred_vectors,
    feature_name,
    head_ranks,
)
from mae.evaluation.protocol import INTERVAL, part_of, provenance, ranked, rows_of, saying

OFFICIAL_IMAGES = 90 * 1_281_167
"""views of ImageNet-1k that the published numbers for ViT-B are trained on"""

MEASURES = (
    "how well classes can be told apart by planes in the frozen class token, as the MAE paper's "
    "numbers are made"
)
PROTOCOL = (
    "linear classifier behind a BatchNorm on frozen features, LARS, random crops (He et al. 2021, "
    "table 10)"
)


def mae_linear_probe(
    config: Config,
    encoders: Mapping[str, FrozenEncoder],
    train: Images,
    test: Images,
    recipe: ProbeRecipe,
    *,
    classes: int | None = None,
    folders: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a head on each of `encoders` as `recipe` says; each meets the test set once.

    They go by name, the one to be judged first, then the untrained.  A head is kept in its one of
    `folders` after every epoch, and the same call goes on from there; it is for the caller to
    clear them (`forget_state`) when the report is safe.  Raises UserError for labels that do not
    fit (`check_labels`), and where more than data.max_bad images of either part are unreadable.
    """
    check_labels(of_manifest(train.manifest), of_manifest(test.manifest), classes)
    plan = make_plan(recipe, len(train.manifest))
    notes = list(remarks(recipe, plan, config.data.flip))
    for note in notes:
        say(f"note: {note}")
    recorded: dict[str, Any] = {
        "epochs": recipe.epochs,
        "batch_size": plan.slices.batch_size,
        "images_at_a_time": plan.slices.device_batch,
        "steps": plan.steps,
        "blr": recipe.blr,
        "lr": plan.lr,
        "warmup_epochs": plan.warmup_epochs,
        "optimizer": f"LARS, momentum {MOMENTUM}, no weight decay",
        "crops": f"random resized, area {SCALE[0]} to {SCALE[1]:g}",
        "flip": config.data.flip,
        "seed": recipe.seed,
    }
    results, met = [], []
    for name, encoder in encoders.items():
        # Before all epochs: what is wrong with the test images must not end them.
        tested = centred_vectors(encoder, test, config.data.max_bad, device=device, workers=workers)
        numbers = check_labels(
            of_manifest(train.manifest), of_samples(test.manifest, tested.samples)
        )
        decisive = {"encoder": encoder.sha256, "training data": train.manifest.fingerprint}
        trained = train_head(
            config,
            encoder,
            train,
            numbers,
            recipe,
            kept=Kept(folders[name], {**recorded, **decisive}) if folders else None,
            device=device,
            workers=workers,
            say=saying(say, name),
        )
        ranks = head_ranks(trained.head, tested.vectors, numbers.test, device)
        feature = feature_name(blank_vectors(config, encoder, device))
        results.append(ranked(name, feature, ranks, numbers.count, {}))
        met.append((numbers, part_of(train, trained.left_out), part_of(test, tested.left_out)))
    numbers, *parts = met[0]
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": "none: the last epoch meets the test set once",
        "recipe": recorded,
        "notes": notes,
        "interval_rule": INTERVAL,
        "classes": numbers.count,
        **provenance(identity(next(iter(encoders.values())), train), *parts),
        "results": rows_of(results, numbers.test, recipe.seed),
    }


def remarks(recipe: ProbeRecipe, plan: Plan, flip: bool) -> Iterator[str]:
    """In what the probe is not the published one, for people to judge its number by."""
    if not flip:
        yield "crops are not mirrored, as data.flip is false; the published probe mirrors half"
    if recipe.warmup_epochs is None and plan.warmup_epochs < WARMUP:
        yield (
            f"a warm-up of {plan.warmup_epochs:.3g} epochs instead of {WARMUP:g}: a ninth of "
            "--epochs, as in the published probe"
        )
    if recipe.batch_size is None and plan.slices.batch_size < BATCH_SIZE:
        yield (
            f"batches of {plan.slices.batch_size:,} images instead of {BATCH_SIZE:,}, as there are "
            f"only {plan.samples:,} to train on"
        )
    views = plan.steps * plan.slices.batch_size
    if views < OFFICIAL_IMAGES / 10:
        yield (
            f"the head sees {views:,.0f} views, the published one {OFFICIAL_IMAGES:,}: LARS moves "
            "by shares of its weights' length and may not get there; more --epochs or a higher "
            "--blr bring it closer, and the fast protocol does not depend on that"
        )
