"""The training of attentive heads, and the settings of a run by it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mae.config.loading import load_config
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.probing import Probing
from mae.objectives.attentive.declaration import Choice

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
    asked: Probing,
    encoder: FrozenEncoder,
    recipe: AttentiveRecipe,
    choices: Sequence[Choice],
    labels: Sequence[int],
    images: int,
    output: str,
) -> Config:
    """The settings of the run that trains a head by each of `choices`, on so many images."""
    model = asked.model_settings(encoder, labels)
    return load_config(
        None,
        base={
            "output": output,
            "objective": "attentive",
            "data": asked.data_settings(encoder),
            "model": {**model, "heads": [choice.model_dump() for choice in choices]},
            **training_sections(recipe, choices, images),
            "log": asked.log_settings(),
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
