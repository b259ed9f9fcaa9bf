"""The paper's linear probe (He et al. 2021, appendix A.1, table 10), as its authors ran it.

A linear classifier on the class token of the frozen encoder, behind a BatchNorm without weights,
trained by LARS on random crops and flips: every epoch encodes new views.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.config import Config
from mae.data.images import Images
from mae.data.loader import BY_THE_CPU, Batch, Slices
from mae.data.training_data import TrainingData, build_cache, build_order
from mae.errors import UserError
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.lars import LARS
from mae.evaluation.mae_probe_head import ProbeHead, blank_vectors, feature_name, image_vectors
from mae.evaluation.mae_probe_state import Progress, load_state, save_state
from mae.schedule import lr_at, scaled_lr

BATCH_SIZE = 16384
DEVICE_BATCH = 512
"""images at a time, and of each BatchNorm's statistics"""

LEAST_STEPS = 10
"""of an epoch; the batch of a data set too small for so many is smaller"""

SCALE = (0.08, 1.0)
"""RandomResizedCrop's usual range: the probe's crops are wider-ranging than pretraining's"""

MOMENTUM = 0.9
WARMUP = 10.0
"""epochs, of 90"""


class ProbeRecipe(NamedTuple):
    """How the head is trained; the defaults are the paper's for ViT-B (50 epochs for ViT-L, H)."""

    epochs: float = 90.0
    batch_size: int | None = None
    """images of a step (None: 16384, or fewer for a small data set)"""
    blr: float = 0.1
    """base learning rate per 256 images of a step"""
    warmup_epochs: float | None = None
    """None: 10, or a ninth of fewer epochs than 90"""
    device_batch: int = DEVICE_BATCH
    seed: int = 0


class Plan(NamedTuple):
    """What follows from the recipe and the data."""

    slices: Slices
    samples: int
    """of an epoch"""
    steps: int
    lr: float
    """the peak, after warm-up"""
    warmup_epochs: float

    def epoch(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return step * self.slices.batch_size / self.samples


def make_plan(recipe: ProbeRecipe, samples: int) -> Plan:
    """Steps, learning rate, and the equal parts that a batch is taken in.

    UserError for a batch larger than the data, or that has no such parts, and for a warm-up that
    leaves no time to learn.
    """
    warmup = recipe.warmup_epochs
    if warmup is None:
        warmup = min(WARMUP, recipe.epochs / 9)
    if warmup >= recipe.epochs:
        raise UserError(f"--warmup-epochs: {warmup:g}, but --epochs is only {recipe.epochs:g}")
    batch_size = batch_for(samples, recipe.batch_size)
    least = -(-batch_size // recipe.device_batch)
    parts = next(n for n in range(least, batch_size + 1) if batch_size % n == 0)
    if parts == batch_size:  # BatchNorm needs two images
        raise UserError(
            f"--step-batch: {batch_size} does not divide into parts of 2 to {recipe.device_batch} "
            "images (--device-batch)"
        )
    steps = max(1, round(recipe.epochs * samples / batch_size))
    lr = scaled_lr(recipe.blr, batch_size)
    return Plan(Slices(batch_size, 1, 0, parts), samples, steps, lr, warmup)


def batch_for(samples: int, batch_size: int | None) -> int:
    """Images of a step: as asked, or 16384, or the power of two that leaves LEAST_STEPS an epoch.

    UserError where more are asked for than there are.
    """
    if batch_size is None:
        fitting = max(2, samples // LEAST_STEPS)
        return min(BATCH_SIZE, 2 ** (fitting.bit_length() - 1))
    if not 2 <= batch_size <= samples:
        raise UserError(f"--step-batch: {batch_size} is not in 2..{samples}, the images of --train")
    return batch_size


class Kept(NamedTuple):
    """Where an unfinished probe is kept, and what it must be continued with."""

    folder: Path
    settings: dict[str, Any]


class Trained(NamedTuple):
    """The head, and what it was trained without."""

    head: ProbeHead
    left_out: list[str]
    """bad training images, which were replaced by others"""


def train_head(
    config: Config,
    encoder: FrozenEncoder,
    images: Images,
    numbers: ClassNumbers,
    recipe: ProbeRecipe,
    *,
    kept: Kept | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> Trained:
    """The head after all its epochs; the encoder stays as it is.

    `numbers`: each image's class.  After every epoch the head is kept, where that is asked for, and
    the same call goes on from there.  Unreadable images are replaced by others; UserError where
    they are more than data.max_bad.
    """
    plan = make_plan(recipe, len(images.manifest))
    vectors = blank_vectors(config, encoder, device)
    width = vectors[feature_name(vectors)].shape[1]
    head = ProbeHead(width, numbers.count, recipe.seed).to(device).train()
    optimizer = LARS(head.parameters(), plan.lr, MOMENTUM)
    step, bad = load_state(kept.folder, head, optimizer, kept.settings) if kept else Progress(0, {})
    if step:
        say(f"continued after epoch {plan.epoch(step):.1f}")
    parts, losses = plan.slices.accumulation, torch.zeros(2, device=device)
    started, began_at = time.monotonic(), step
    micro_batches = random_views(config, images, encoder.img_size, recipe, plan, step, workers)
    for count, batch in enumerate(micro_batches, 1):
        bad |= {sample.sample: sample.reason for sample in batch.bad}
        if len(bad) > config.data.max_bad:
            raise UserError(
                f"--train: more than {config.data.max_bad} bad images: {batch.bad[-1].reason}"
            )
        pixels = batch.images
        assert isinstance(pixels, Tensor)  # BY_THE_CPU
        logits = head(image_vectors(encoder, pixels.to(device)))
        target = torch.from_numpy(numbers.train[batch.samples.numpy()]).to(device)
        part = F.cross_entropy(logits, target) / parts
        part.backward()
        losses += torch.stack([part.detach() * parts, torch.ones_like(part)])
        if count % parts:
            continue
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, plan, step)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if int(plan.epoch(step)) > int(plan.epoch(step - 1)) or step == plan.steps:
            speed = (step - began_at) * plan.slices.batch_size / (time.monotonic() - started)
            left = (plan.steps - step) * plan.slices.batch_size / speed
            loss = (losses[0] / losses[1]).item()
            say(
                f"epoch {plan.epoch(step):.1f}/{recipe.epochs:g}  loss {loss:.4f}  "
                f"{speed:,.0f} images/s  ETA {left / 60:,.1f} min"
            )
            losses.zero_()
            if kept:
                save_state(kept.folder, head, optimizer, Progress(step, bad), kept.settings)
    reasons = [bad[sample] for sample in sorted(bad)]
    for reason in reasons:
        say(f"replaced by others: {reason}")
    return Trained(head.eval(), reasons)


def learning_rate(recipe: ProbeRecipe, plan: Plan, step: int) -> float:
    """Of the step that follows `step` steps: warm-up, then half a cosine to 0."""
    return lr_at(
        plan.epoch(step),
        lr=plan.lr,
        min_lr=0.0,
        warmup_epochs=plan.warmup_epochs,
        epochs=recipe.epochs,
    )


def random_views(
    config: Config,
    images: Images,
    img_size: tuple[int, int],
    recipe: ProbeRecipe,
    plan: Plan,
    first_step: int,
    workers: int,
) -> Iterator[Batch]:
    """Micro-batches of random crops and flips, new ones each epoch, from `first_step` on."""
    data = config.data.model_copy(
        update={
            "mixture": (),
            "order": "global" if config.data.order == "global" else "window",
            "repeats": 1,
            **BY_THE_CPU,
            "scale": SCALE,
            "ratio": (3 / 4, 4 / 3),
            "workers": workers,
        }
    )
    own = config.model_copy(update={"data": data})
    order = build_order(data, images.manifest, recipe.seed, plan.slices.batch_size)
    stream = TrainingData(images.manifest, order, images.reader.cache or build_cache(data))
    return stream.batches(own, plan.slices, img_size, first_step, plan.steps)
