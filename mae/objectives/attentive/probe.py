"""Training of attentive probes: recipe, selection of the settings, final head, test."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.probe import is_edge
from mae.evaluation.probing import ProbeRequest
from mae.evaluation.results import TRAINED_ENCODERS, prefixed_log
from mae.objectives.attentive.declaration import HeadSettings
from mae.objectives.attentive.model import AttentiveProbe
from mae.objectives.attentive.ranks import divided_ranks
from mae.objectives.attentive.tokens import Rows, Tokens, token_data

EPOCHS = 20
"""default epochs, as on ImageNet (Bardes et al. 2024); more for small data sets, by LEAST_STEPS"""

LEAST_STEPS = 2500
"""default minimum of optimizer steps: the shortest training of VTAB (Zhai et al. 2019, "A
Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark"), whose data
sets have 1,000 labels"""

LEAST_IMAGES = 20
"""minimum number of training images, of which a tenth selects the settings"""

NAME = "attentive"
"""name of the run folder, and of the report's file"""

BETAS = (0.9, 0.999)

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CANDIDATES = tuple(HeadSettings(lr=lr, weight_decay=decay) for decay in (0.1, 0.01) for lr in RATES)


class AttentiveRecipe(NamedTuple):
    """Recipe of a head: AdamW, linear warm-up over a tenth of the epochs, cosine decay to 0."""

    epochs: int = EPOCHS
    batch_size: int = 256
    """images per step, over all processes; all images where there are fewer"""
    seed: int = 0
    """random seed of the split, the initial weights and the order"""

    def steps(self, images: int) -> int:
        """Number of optimizer steps on `images` training images."""
        return math.ceil(self.epochs * images / min(self.batch_size, images))


def epochs_for(images: int, batch_size: int) -> int:
    """Default number of epochs: EPOCHS, or more for LEAST_STEPS."""
    return max(EPOCHS, (LEAST_STEPS - 1) * min(batch_size, images) // images + 1)


def run_settings(
    request: ProbeRequest,
    encoder: FrozenEncoder,
    recipe: AttentiveRecipe,
    candidates: Sequence[HeadSettings],
    labels: Sequence[int],
    images: int,
    output: str,
) -> Config:
    """Settings of the run that trains a head by each of `candidates`.

    `labels`: the different labels of --train; `images`: number of training images; `output`: run
    folder.
    """
    model = request.model_settings(encoder, labels)
    return load_config(
        None,
        base={
            "output": output,
            "objective": "attentive",
            "data": request.data_settings(encoder),
            "model": {**model, "heads": [candidate.model_dump() for candidate in candidates]},
            **training_sections(recipe, candidates, images),
            "log": request.log_settings(),
        },
    )


def training_sections(
    recipe: AttentiveRecipe, candidates: Sequence[HeadSettings], images: int
) -> dict[str, dict[str, Any]]:
    """Sections `optim:` and `train:` for `images` training images."""
    batch_size = min(recipe.batch_size, images)
    return {
        "optim": {
            "lr": max(candidate.lr for candidate in candidates),
            "warmup_epochs": recipe.epochs / 10,
            "weight_decay": 0.0,  # set in each head's parameter groups
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


class EncodedData(NamedTuple):
    """Tokens of the training and test images by one encoder."""

    encoder: str
    """name of the encoder: pretrained, fine-tuned or untrained"""
    train: Tokens
    test: Tokens


class ProbeResult(NamedTuple):
    """Result of the probe of one encoder."""

    ranks: npt.NDArray[np.int64]
    """[m] number of classes that score higher than the true one, for each test image"""
    selected: HeadSettings
    accuracies: list[float]
    """accuracy of each candidate on the held-out tenth of the training images"""
    lr_at_edge: bool
    """the smallest or largest learning rate of the candidates is the best"""


def attentive_probe(
    request: ProbeRequest,
    data: EncodedData,
    numbers: ClassNumbers,
    recipe: AttentiveRecipe,
    candidates: Sequence[HeadSettings] = CANDIDATES,
) -> ProbeResult:
    """Select the settings on a tenth of the training images, refit on all, test once.

    `numbers`: class number for each row of the tokens.  Raises UserError for fewer than
    LEAST_IMAGES training images, and for steps that do not divide among the processes.
    """
    n, train, log = len(numbers.train), data.train, prefixed_log(request.log, data.encoder)
    if n < LEAST_IMAGES:
        raise UserError(f"--train: {n} images; an attentive probe needs {LEAST_IMAGES}")
    order = np.argsort(fold(recipe.seed, Stream.STATISTICS, np.arange(n)), kind="stable")
    held_out, fitted = np.sort(order[: n // 10]), np.sort(order[n // 10 :])
    for rows in (n - n // 10, n):
        refuse_uneven(min(recipe.batch_size, rows), request.portion.count, recipe.batch_size)
    log(f"selecting among {len(candidates)} settings on {len(held_out):,} of {n:,} training images")
    probe = _fit(request, data, recipe, candidates, fitted, f"{NAME}-choosing", NAME)
    found = divided_ranks(
        request,
        data.encoder,
        probe=probe,
        tokens=train,
        labels=numbers.train,
        rows=held_out,
        batch_size=recipe.batch_size,
    )
    accuracies = [float((row == 0).mean()) for row in found]
    best = candidates[int(np.argmax(accuracies))]
    log(f"selected: lr {best.lr:g}, weight decay {best.weight_decay:g}; training on all")
    probe = _fit(request, data, recipe, [best], np.arange(n), NAME)
    everything = np.arange(len(numbers.test))
    log(f"testing on {len(everything):,} images")
    tested = divided_ranks(
        request,
        data.encoder,
        probe=probe,
        tokens=data.test,
        labels=numbers.test,
        rows=everything,
        batch_size=recipe.batch_size,
    )
    return ProbeResult(tested.flatten(), best, accuracies, rate_at_edge(candidates, accuracies))


def refuse_uneven(images: int, num_processes: int, batch_size: int) -> None:
    """Refuse a step of `images` images that does not divide among the processes.

    Raises UserError, which names --batch-size.
    """
    if images % num_processes:
        raise UserError(
            f"--batch-size: {batch_size}, of which a step takes {images} images, does not divide "
            f"among {num_processes} processes: choose another, or use one process"
        )


def _fit(
    request: ProbeRequest,
    data: EncodedData,
    recipe: AttentiveRecipe,
    candidates: Sequence[HeadSettings],
    rows: Rows,
    *names: str,
) -> AttentiveProbe:
    """Train heads on `rows` in the run folder names[0]; names[1], if any, is the next run's."""
    encoder, train = request.encoders[data.encoder], request.train
    suffix = "" if data.encoder in TRAINED_ENCODERS else f"-{data.encoder}"
    folder, *later = (request.folder / f"{name}{suffix}" for name in names)
    labels = np.unique(train.manifest.label[data.train.samples]).tolist()
    config = run_settings(
        request,
        encoder,
        recipe=recipe,
        candidates=candidates,
        labels=labels,
        images=len(rows),
        output=str(folder),
    )
    source = token_data(data.train, rows, train, recipe.seed)
    probe = request.fit(config, source, later[0] if later else None)
    assert isinstance(probe, AttentiveProbe)
    return probe


def rate_at_edge(candidates: Sequence[HeadSettings], accuracies: Sequence[float]) -> bool:
    """True if the first or last of three or more learning rates is the best."""
    rates = sorted({candidate.lr for candidate in candidates})
    pairs = list(zip(candidates, accuracies, strict=True))
    best = [max(value for candidate, value in pairs if candidate.lr == lr) for lr in rates]
    return len(rates) > 2 and is_edge(np.array(best))
