"""The whole report of `mae attentive`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mae.data.images import Images
from mae.evaluation.attentive import (
    BETAS,
    CHOICES,
    LEAST_STEPS,
    AttentiveRecipe,
    Choice,
    Probed,
    attentive_probe,
)
from mae.evaluation.attentive_tokens import Tokens
from mae.evaluation.labels import check_labels, of_samples
from mae.evaluation.protocol import INTERVAL, part_of, provenance, ranked, rows_of, saying

MEASURES = (
    "how well classes can be told apart by what all frozen tokens hold together; as published for "
    "ImageNet, MAE's number lies between those of a linear probe and of fine-tuning"
)
PROTOCOL = (
    "attention pooling with a learned query over all frozen tokens, LayerNorm, linear classifier; "
    "AdamW, cosine"
)
SELECTION = (
    "learning rate and weight decay by accuracy on a tenth of the training images; a new head on "
    "all of them meets the test set once"
)


class TokenSubject(NamedTuple):
    """An encoder's tokens of both data sets."""

    encoder: str
    """pretrained or fine-tuned, or untrained"""
    train: Tokens
    test: Tokens


def attentive_report(
    subjects: Sequence[TokenSubject],
    encoder: Mapping[str, str],
    train: Images,
    test: Images,
    recipe: AttentiveRecipe,
    *,
    choices: Sequence[Choice] = CHOICES,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """A probe of each of `subjects`, the one to be judged first, which `encoder` describes.

    Raises UserError for labels that do not fit (`check_labels`), or too few images.
    """
    first = subjects[0]
    numbers = check_labels(
        of_samples(train.manifest, first.train.samples),
        of_samples(test.manifest, first.test.samples),
    )
    results, notes, steps = [], [], recipe.steps(len(numbers.train))
    if steps < LEAST_STEPS:
        notes.append(f"{steps:,} steps: more --epochs, for {LEAST_STEPS:,}, may do better")
    for name, fitted, tested in subjects:
        talk = saying(say, name)
        probed = attentive_probe(
            fitted, tested, numbers, recipe, choices=choices, device=device, say=talk
        )
        more = {**probed.chosen._asdict(), "lr_at_edge": probed.lr_at_edge}
        more |= {"sweep": sweep(probed, choices)}
        if probed.lr_at_edge:
            told = f"lr {probed.chosen.lr:g} at the edge of the candidates"
            notes.append(f"{name}: {told}, one beyond may do better")
        results.append(ranked(name, "tokens", probed.ranks, numbers.count, more))
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": SELECTION,
        "recipe": {**recipe._asdict(), "steps": steps, "betas": list(BETAS)},
        "notes": notes,
        "interval_rule": INTERVAL,
        "classes": numbers.count,
        **provenance(
            encoder, part_of(train, first.train.left_out), part_of(test, first.test.left_out)
        ),
        "results": rows_of(results, numbers.test, recipe.seed),
    }


def sweep(probed: Probed, choices: Sequence[Choice]) -> list[dict[str, float]]:
    """What each choice reached on the tenth."""
    pairs = zip(choices, probed.accuracies, strict=True)
    return [{**choice._asdict(), "accuracy": accuracy} for choice, accuracy in pairs]
