"""Classifiers that hold weights of others: released fine-tuned models and linear probes."""

from typing import Any

import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.config.loading import parse_recorded_config
from mae.networks.encoders.registry import adapter_named
from mae.objectives.classifier.model import Classifier
from mae.objectives.implementation import AdoptedModel
from mae.pretrained_weights.architecture import WeightOptions, infer_settings, set_norm_eps
from mae.pretrained_weights.fit import load_encoder
from mae.pretrained_weights.weight_files import Weights
from mae.training.checkpoint.trained import build_objective

BATCH_NORM_EPS = 1e-6
"""epsilon of the BatchNorm before the head of the paper's linear probes"""


def adopt_classifier(weights: Weights, options: WeightOptions) -> AdoptedModel | None:
    """Build the classifier that holds `weights`; None where they have no head.

    The head's input is the mean of the patch tokens where the weights have a `fc_norm`, or their
    configuration says so; else the class token.  Raises UserError where a tensor is missing,
    unknown or does not fit.
    """
    if not weights.head:
        return None
    head, notes = plain_head(weights)
    if head["weight"].shape[0] < 2:
        raise UserError(f"{weights.name}: its head has one output: no classifier")
    inferred = infer_settings(weights, options)
    model, assumed = dict(inferred.model), list(inferred.assumed)
    has_fc_norm = "fc_norm.weight" in weights.encoder
    pool = "avg" if has_fc_norm else "token"
    if weights.architecture:
        pool = weights.architecture.global_pool
    adapter = adapter_named(model["encoder"])
    if has_fc_norm != (pool == "avg"):
        argument = adapter.final_norm if adapter else "fc_norm"
        if argument:
            model["encoder_kwargs"] = {**model["encoder_kwargs"], argument: has_fc_norm}
    if pool == "token" and "cls_token" not in weights.encoder:
        raise UserError(f"{weights.name}: a head, but neither fc_norm nor a class token to read")
    finetune: dict[str, Any] = {"num_classes": head["weight"].shape[0], "global_pool": pool}
    settings = {
        "objective": "classifier",
        "model": model,
        "data": inferred.data,
        "finetune": {**finetune, "drop_path": 0.0},
    }
    config = parse_recorded_config(settings, weights.name)
    objective = build_objective(config)
    assert isinstance(objective, Classifier)
    set_norm_eps(objective, weights.geometry.eps)
    name = adapter.head if adapter else "head"
    with_head = {f"{name}.{key}": tensor for key, tensor in head.items()}
    loaded = load_encoder(
        objective.encoder, weights._replace(encoder=weights.encoder | with_head), hint=""
    )
    skipped = {key: why for key, why in loaded.skipped.items() if why != "a head"}
    skipped |= {f"decoder.{key}": "the decoder" for key in weights.decoder}
    reads = "the mean of the patch tokens" if pool == "avg" else "the class token"
    notes.append(f"a classifier into {head['weight'].shape[0]} classes, by {reads}")
    return AdoptedModel(
        config=config,
        objective=objective,
        parts={"classifier": loaded},
        skipped=skipped,
        notes=[*notes, *loaded.notes],
        assumed=assumed,
        is_probe=any(key.startswith("head.0.") for key in weights.head),
    )


def plain_head(weights: Weights) -> tuple[dict[str, Tensor], list[str]]:
    """Weight and bias of the head, and notes for the user.

    The BatchNorm before the head of a linear probe (`head.0`, without weights of its own) is
    merged into the linear layer.  Raises UserError for a head of another kind.
    """
    tensors = {key.removeprefix("head."): tensor for key, tensor in weights.head.items()}
    names = set(tensors)
    if names == {"weight", "bias"} and tensors["weight"].ndim == 2:
        return tensors, []
    tensors.pop("0.num_batches_tracked", None)
    if set(tensors) != {"0.running_mean", "0.running_var", "1.weight", "1.bias"}:
        listed = ", ".join(sorted(weights.head))
        raise UserError(f"{weights.name}: its head is not head.weight and head.bias, but {listed}")
    mean, variance, weight, bias = (
        tensors[key].double() for key in ("0.running_mean", "0.running_var", "1.weight", "1.bias")
    )
    weight = weight / torch.sqrt(variance + BATCH_NORM_EPS)
    bias = bias - weight @ mean
    merged = {"weight": weight.float(), "bias": bias.float()}
    return merged, ["the BatchNorm before the head (head.0) is merged into it"]
