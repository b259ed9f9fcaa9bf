"""The training of attentive heads, and the settings of a run by it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.probe import is_edge
from mae.evaluation.probing import ProbeRequest
from mae.evaluation.results import TRAINED_ENCODERS, label_ranks, prefixed_log
from mae.objectives.attentive.declaration import Choice
from mae.objectives.attentive.model import AttentiveProbe
from mae.objectives.attentive.tokens import Rows, Tokens, token_data

EPOCHS = 20
"""as on ImageNet (Bardes et al. 2024); of a small data set more, for LEAST_STEPS"""

LEAST_STEPS = 2500
"""as the shortest training of VTAB (Zhai et al. 2019, "A Large-scale Study of Representation
Learning with the Visual Task Adaptation Benchmark"), whose data sets have 1,000 labels"""

BETAS = (0.9, 0.999)

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CHOICES = tuple(Choice(lr=lr, weight_decay=decay) for decay in (0.1, 0.01) for lr in RATES)


class AttentiveRecipe(NamedTuple):
    """Training of a head: AdamW, linear warm-up over a tenth of the epochs, cosine to 0."""

    epochs: int = EPOCHS
    batch_size: int = 256
    """images of a step, or all of them where there are fewer"""
    seed: int = 0

    def steps(self, images: int) -> int:
        """Steps of heads that are trained on so many images."""
        return math.ceil(self.epochs * images / min(self.batch_size, images))


def epochs_for(images: int, batch_size: int) -> int:
    """EPOCHS, or as many more as LEAST_STEPS take."""
    return max(EPOCHS, (LEAST_STEPS - 1) * min(batch_size, images) // images + 1)


def run_settings(
    request: ProbeRequest,
    encoder: FrozenEncoder,
    recipe: AttentiveRecipe,
    choices: Sequence[Choice],
    labels: Sequence[int],
    images: int,
    output: str,
) -> Config:
    """The settings of the run that trains a head by each of `choices`, on so many images."""
    model = request.model_settings(encoder, labels)
    return load_config(
        None,
        base={
            "output": output,
            "objective": "attentive",
            "data": request.data_settings(encoder),
            "model": {**model, "heads": [choice.model_dump() for choice in choices]},
            **training_sections(recipe, choices, images),
            "log": request.log_settings(),
        },
    )


def training_sections(
    recipe: AttentiveRecipe, choices: Sequence[Choice], images: int
) -> dict[str, dict[str, Any]]:
    """Sections `optim:` and `train:`."""
    batch_size = min(recipe.batch_size, images)
    return {
        "optim": {
            "lr": max(choice.lr for choice in choices),
            "warmup_epochs": recipe.epochs / 10,
            "weight_decay": 0.0,  # of each head its own
            "betas": BETAS,
        },
        "train": {
            "epochs": recipe.epochs,
            "batch_size": batch_size,
            "max_device_batch": batch_size,
            "precision": "fp32",
            "seed": recipe.seed,
        },
    }


NAME = "attentive"
"""of the run folder, and of the report's file"""

LEAST_IMAGES = 20
"""with fewer a tenth cannot choose"""


class TokenSubject(NamedTuple):
    """An encoder's tokens of both data sets."""

    encoder: str
    """pretrained or fine-tuned, or untrained"""
    train: Tokens
    test: Tokens


class Probed(NamedTuple):
    """Result of the probe of one encoder; the ranks on the first process alone."""

    ranks: npt.NDArray[np.int64]
    """[m] of the test images: how many classes score higher than the right one"""
    chosen: Choice
    accuracies: list[float]
    """of each choice, on the tenth"""
    lr_at_edge: bool
    """the smallest or largest learning rate is better than all in between"""


def attentive_probe(
    request: ProbeRequest,
    subject: TokenSubject,
    numbers: ClassNumbers,
    recipe: AttentiveRecipe,
    choices: Sequence[Choice] = CHOICES,
) -> Probed:
    """Choose, refit, test once.  `numbers` has one class for each row of the tokens.

    Raises UserError for fewer than LEAST_IMAGES training images.
    """
    n, train, say = len(numbers.train), subject.train, prefixed_log(request.log, subject.encoder)
    if n < LEAST_IMAGES:
        raise UserError(f"--train: {n} images; an attentive probe needs {LEAST_IMAGES}")
    order = np.argsort(fold(recipe.seed, Stream.STATISTICS, np.arange(n)), kind="stable")
    held_out, fitted = np.sort(order[: n // 10]), np.sort(order[n // 10 :])
    for rows in (n - n // 10, n):
        refuse_uneven(min(recipe.batch_size, rows), request.num_processes, recipe.batch_size)
    say(f"choosing among {len(choices)} settings on {len(held_out):,} of {n:,} training images")
    probe = _fit(request, subject, recipe, choices, fitted, f"{NAME}-choosing", NAME)
    found = _ranks(request, subject.encoder, probe, train, numbers.train, held_out, recipe)
    accuracies = request.share([float((row == 0).mean()) for row in found])
    best = choices[int(np.argmax(accuracies))]
    say(f"chosen: lr {best.lr:g}, weight decay {best.weight_decay:g}; training on all")
    probe = _fit(request, subject, recipe, [best], np.arange(n), NAME)
    everything = np.arange(len(numbers.test))
    tested = _ranks(request, subject.encoder, probe, subject.test, numbers.test, everything, recipe)
    return Probed(tested.flatten(), best, accuracies, rate_at_edge(choices, accuracies))


def refuse_uneven(images: int, num_processes: int, batch_size: int) -> None:
    """UserError where a step of so many images does not divide among the processes."""
    if images % num_processes:
        raise UserError(
            f"--batch-size: {batch_size}, of which a step takes {images} images, does not divide "
            f"among {num_processes} processes: choose another, or use one process"
        )


def _fit(
    request: ProbeRequest,
    subject: TokenSubject,
    recipe: AttentiveRecipe,
    choices: Sequence[Choice],
    rows: Rows,
    *names: str,
) -> AttentiveProbe:
    """The heads trained on `rows`, in the run folder of the first of `names`; others follow."""
    encoder, train = request.encoders[subject.encoder], request.train
    suffix = "" if subject.encoder in TRAINED_ENCODERS else f"-{subject.encoder}"
    folder, *later = (request.folder / f"{name}{suffix}" for name in names)
    labels = np.unique(train.manifest.label[subject.train.samples]).tolist()
    config = run_settings(request, encoder, recipe, choices, labels, len(rows), str(folder))
    data = token_data(subject.train, rows, train, recipe.seed)
    probe = request.fit(config, data, later[0] if later else None)
    assert isinstance(probe, AttentiveProbe)
    return probe


def _ranks(
    request: ProbeRequest,
    name: str,
    probe: AttentiveProbe,
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    rows: Rows,
    recipe: AttentiveRecipe,
) -> npt.NDArray[np.int64]:
    """`ranks` on the first process, with the encoder on the device meanwhile; none on others."""
    found = request.on_first_with(
        name, lambda: ranks(probe.eval(), tokens, labels, rows, recipe.batch_size)
    )
    return np.zeros((0, 0), np.int64) if found is None else found


@torch.no_grad()
def ranks(
    probe: AttentiveProbe,
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    rows: Rows,
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """[heads rows] of each image's own class: `label_ranks`."""
    slices = np.array_split(rows, -(-len(rows) // batch_size))
    found = []
    for numbers, batch in zip(slices, tokens.load(slices), strict=True):
        above = [label_ranks(scores, labels[numbers]) for scores in probe.scores(batch)]
        found.append(torch.stack(above).cpu())
    return torch.cat(found, dim=1).numpy()


def rate_at_edge(choices: Sequence[Choice], accuracies: Sequence[float]) -> bool:
    """True where the first or last of three or more learning rates is the best."""
    rates = sorted({choice.lr for choice in choices})
    pairs = list(zip(choices, accuracies, strict=True))
    best = [max(value for choice, value in pairs if choice.lr == lr) for lr in rates]
    return len(rates) > 2 and is_edge(np.array(best))
