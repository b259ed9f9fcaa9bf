"""The whole report of `mae attentive`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mae.data.images import Images
from mae.evaluation.attentive import (
    BETAS,
    CHOICES,
    AttentiveRecipe,
    Choice,
    Probed,
    attentive_probe,
)
from mae.evaluation.attentive_tokens import Tokens
from mae.evaluation.labels import check_labels, of_samples
from mae.evaluation.protocol import INTERVAL, part_of, provenance, ranked, rows_of

MEASURES = (
    "how well classes can be told apart by what all frozen tokens hold together; between a linear "
    "probe and fine-tuning"
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
    """pretrained or untrained"""
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
    """A probe of each of `subjects`, the pretrained encoder first, which `encoder` describes.

    Raises UserError for labels that do not fit (`check_labels`), or too few images.
    """
    first = subjects[0]
    numbers = check_labels(
        of_samples(train.manifest, first.train.samples),
        of_samples(test.manifest, first.test.samples),
    )
    results = []
    for name, fitted, tested in subjects:

        def say_of(text: str, name: str = name) -> None:
            say(f"{name}: {text}")

        probed = attentive_probe(
            fitted, tested, numbers, recipe, choices=choices, device=device, say=say_of
        )
        more = {**probed.chosen._asdict(), "sweep": sweep(probed, choices)}
        results.append(ranked(name, "tokens", probed.ranks, numbers.count, more))
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": SELECTION,
        "recipe": {**recipe._asdict(), "betas": list(BETAS)},
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
