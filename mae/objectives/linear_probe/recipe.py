"""Recipe of the paper's linear probe, and the settings of a run by it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.probing import ProbeRequest
from mae.objectives.linear_probe.declaration import GROUP

BATCH_SIZE = 16384

"""images per step of the paper"""

LEAST_STEPS = 10
"""minimum steps per epoch; small data sets have smaller batches"""

SCALE = (0.08, 1.0)
"""area of the random crops: RandomResizedCrop's default, a wider range than in pretraining"""

OVERSIZED = "clamp"
"""crops that do not fit the image: cut to it, as in the released code, whose crops are larger on
average than torchvision's (52 % of an image of 375 x 500 px, against 43 %)"""

CROPS = {"scale": SCALE, "ratio": (3 / 4, 4 / 3), "oversized": OVERSIZED}
"""settings of the random crops"""

MOMENTUM = 0.9
WARMUP = 10.0
"""epochs of warm-up, of 90"""

OFFICIAL_VIEWS = 90 * 1_281_167
"""number of training views behind the published numbers for ViT-B, of ImageNet-1k"""


class ProbeRecipe(NamedTuple):
    """Recipe of the head's training; defaults: the paper's for ViT-B (50 epochs for ViT-L, H)."""

    epochs: float = 90.0
    batch_size: int | None = None
    """images per step, over all processes (None: 16384, or fewer for a small data set)"""
    blr: float = 0.1
    """base learning rate, per 256 images of a step"""
    warmup_epochs: float | None = None
    """epochs of linear warm-up (None: 10, or a ninth of `epochs` where these are fewer than 90)"""
    device_batch: int = GROUP
    """maximum images per micro-batch, which is also the group of BatchNorm"""
    seed: int = 0


class Sizes(NamedTuple):
    """Sizes that follow from the recipe and the number of training images."""

    batch_size: int
    """images per step, over all processes"""
    group: int
    """number of images that BatchNorm normalises together"""
    warmup_epochs: float


def sizes(recipe: ProbeRecipe, samples: int) -> Sizes:
    """Batch size, its equal groups, and warm-up, for `samples` training images.

    Raises UserError for a batch larger than the data or one that does not divide into groups, and
    for a warm-up as long as the training.
    """
    warmup = recipe.warmup_epochs
    if warmup is None:
        warmup = min(WARMUP, recipe.epochs / 9)
    if warmup >= recipe.epochs:
        raise UserError(f"--warmup-epochs: {warmup:g}, but --epochs is only {recipe.epochs:g}")
    batch_size = batch_for(samples, recipe.batch_size)
    fewest = -(-batch_size // recipe.device_batch)
    groups = next(n for n in range(fewest, batch_size + 1) if batch_size % n == 0)
    if groups == batch_size:  # BatchNorm needs two images
        raise UserError(
            f"--step-batch: {batch_size} does not divide into parts of 2 to {recipe.device_batch} "
            "images (--device-batch)"
        )
    return Sizes(batch_size, batch_size // groups, warmup)


def batch_for(samples: int, batch_size: int | None) -> int:
    """Images per step: `batch_size`, or the largest power of two for LEAST_STEPS steps per epoch.

    At most BATCH_SIZE by default.  Raises UserError where `batch_size` is not in 2..samples.
    """
    if batch_size is None:
        fitting = max(2, samples // LEAST_STEPS)
        return min(BATCH_SIZE, 2 ** (fitting.bit_length() - 1))
    if not 2 <= batch_size <= samples:
        raise UserError(f"--step-batch: {batch_size} is not in 2..{samples}, the images of --train")
    return batch_size


def run_settings(
    request: ProbeRequest,
    encoder: FrozenEncoder,
    recipe: ProbeRecipe,
    labels: Sequence[int],
    output: str,
) -> Config:
    """Settings of the run that trains the head, for the different labels of --train."""
    samples = len(request.train.manifest)
    batch_size, group, warmup_epochs = sizes(recipe, samples)
    return load_config(
        None,
        base={
            "output": output,
            "objective": "linear_probe",
            "data": {**request.data_settings(encoder), **CROPS},
            "model": {**request.model_settings(encoder, labels), "group": group},
            **training_sections(recipe, batch_size, group, warmup_epochs, samples),
            "log": request.log_settings(),
        },
    )


def training_sections(
    recipe: ProbeRecipe, batch_size: int, group: int, warmup_epochs: float, samples: int
) -> dict[str, dict[str, Any]]:
    """Sections `optim:` and `train:`, with a checkpoint after every epoch."""
    return {
        "optim": {
            "name": "lars",
            "blr": recipe.blr,
            "warmup_epochs": warmup_epochs,
            "weight_decay": 0.0,
            "betas": (MOMENTUM, 0.999),
        },
        "train": {
            "epochs": recipe.epochs,
            "batch_size": batch_size,
            "max_device_batch": group,
            "seed": recipe.seed,
            "checkpoint_every": -(-samples // batch_size),
        },
    }


def remarks(recipe: ProbeRecipe, samples: int, steps: int, flip: bool) -> Iterator[str]:
    """Yield differences from the published probe that affect the result."""
    batch_size, _, warmup_epochs = sizes(recipe, samples)
    if not flip:
        yield "crops are not mirrored, as data.flip is false; the published probe mirrors half"
    if recipe.warmup_epochs is None and warmup_epochs < WARMUP:
        yield (
            f"a warm-up of {warmup_epochs:.3g} epochs instead of {WARMUP:g}: a ninth of "
            "--epochs, as in the published probe"
        )
    if recipe.batch_size is None and batch_size < BATCH_SIZE:
        yield (
            f"batches of {batch_size:,} images instead of {BATCH_SIZE:,}, as there are only "
            f"{samples:,} to train on"
        )
    views = steps * batch_size
    if views < OFFICIAL_VIEWS / 10:
        yield (
            f"the head trains on {views:,.0f} views, the published one on {OFFICIAL_VIEWS:,}: a "
            "step of LARS is a share of the weights' norm, so it may not converge; use more "
            "--epochs or a higher --blr, or --protocol fast, which does not depend on that"
        )
