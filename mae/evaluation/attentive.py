"""Attentive probe: how well classes can be told apart by what frozen patch tokens hold.

A linear probe reads one vector of an image; here a small head learns where to look among all
tokens (see `attentive_head`), as MAE leaves what it knows in the patches.  Learning rate and
weight decay are chosen on a tenth of the training images; a new head is then trained on all of
them and meets the test set once.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mae.errors import UserError
from mae.evaluation.attentive_head import AttentiveHead
from mae.evaluation.attentive_tokens import Rows, Tokens
from mae.evaluation.labels import ClassNumbers
from mae.evaluation.probe import is_edge
from mae.evaluation.protocol import ranks_of_truth
from mae.hashing import Stream, fold
from mae.schedule import lr_at

LEAST_IMAGES = 20
"""with fewer a tenth cannot choose"""

EPOCHS = 20
"""as on ImageNet (Bardes et al. 2024); of a small data set more, for LEAST_STEPS"""

LEAST_STEPS = 2500
"""as the shortest training of VTAB (Zhai et al. 2019, "A Large-scale Study of Representation
Learning with the Visual Task Adaptation Benchmark"), whose data sets have 1,000 labels"""

MOST_LINES = 20
"""of progress"""

BETAS = (0.9, 0.999)


class Choice(NamedTuple):
    """What the tenth chooses among."""

    lr: float
    weight_decay: float


RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CHOICES = tuple(Choice(lr, decay) for decay in (0.1, 0.01) for lr in RATES)


class AttentiveRecipe(NamedTuple):
    """How a head is trained: AdamW, linear warm-up over a tenth of the epochs, cosine to 0."""

    epochs: int = EPOCHS
    batch_size: int = 256
    """images of a step, or fewer where that leaves none over"""
    seed: int = 0

    def steps(self, images: int) -> int:
        """Of the head that is trained on so many."""
        return self.epochs * -(-images // self.batch_size)


def epochs_for(images: int, batch_size: int) -> int:
    """EPOCHS, or as many more as LEAST_STEPS take."""
    return max(EPOCHS, -(-LEAST_STEPS // -(-images // batch_size)))


class Probed(NamedTuple):
    """What the probe of one encoder found."""

    ranks: npt.NDArray[np.int64]
    """[m] of the test images: how many classes score higher than the right one"""
    chosen: Choice
    accuracies: list[float]
    """of each choice, on the tenth"""
    lr_at_edge: bool
    """the smallest or largest learning rate is better than all in between"""


def attentive_probe(
    train: Tokens,
    test: Tokens,
    numbers: ClassNumbers,
    recipe: AttentiveRecipe,
    *,
    choices: Sequence[Choice] = CHOICES,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> Probed:
    """Choose, refit, test once.  `numbers` has one class for each row of the tokens.

    Raises UserError for fewer than LEAST_IMAGES training images.
    """
    n, labels, classes = len(numbers.train), numbers.train, numbers.count
    if n < LEAST_IMAGES:
        raise UserError(f"--train: {n} images; an attentive probe needs {LEAST_IMAGES}")
    order = np.argsort(fold(recipe.seed, Stream.STATISTICS, np.arange(n)), kind="stable")
    held_out, fitted = np.sort(order[: n // 10]), np.sort(order[n // 10 :])
    say(f"choosing among {len(choices)} settings on {len(held_out):,} of {n:,} training images")
    heads = train_heads(train, labels, fitted, classes, choices, recipe, device, say)
    found = ranks(heads, train, labels, held_out, recipe.batch_size)
    accuracies = [float((row == 0).mean()) for row in found]
    best = choices[int(np.argmax(accuracies))]
    say(f"chosen: lr {best.lr:g}, weight decay {best.weight_decay:g}; training on all")
    head = train_heads(train, labels, np.arange(n), classes, [best], recipe, device, say)
    everything = np.arange(len(numbers.test))
    (tested,) = ranks(head, test, numbers.test, everything, recipe.batch_size)
    return Probed(tested, best, accuracies, rate_at_edge(choices, accuracies))


def rate_at_edge(choices: Sequence[Choice], accuracies: Sequence[float]) -> bool:
    """Of each learning rate counts the best decay; fewer than three of them have no edge."""
    rates = sorted({choice.lr for choice in choices})
    pairs = list(zip(choices, accuracies, strict=True))
    best = [max(value for choice, value in pairs if choice.lr == lr) for lr in rates]
    return len(rates) > 2 and is_edge(np.array(best))


def train_heads(
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    rows: Rows,
    classes: int,
    choices: Sequence[Choice],
    recipe: AttentiveRecipe,
    device: torch.device | str,
    say: Callable[[str], None],
) -> list[AttentiveHead]:
    """A head for each of `choices`, all from the same start and on the same batches."""
    (first,) = tokens.batches([rows[:1]])
    heads, optimizers = [], []
    for choice in choices:
        chance = torch.Generator().manual_seed(recipe.seed)
        head = AttentiveHead(first.shape[2], classes, chance).to(device)
        matrices = [p for p in head.parameters() if p.ndim > 1]
        vectors = [p for p in head.parameters() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        decay = choice.weight_decay
        optimizers.append(torch.optim.AdamW(groups, choice.lr, BETAS, weight_decay=decay))
        heads.append(head)
    parts = -(-len(rows) // recipe.batch_size)
    for epoch in range(recipe.epochs):
        words = fold(recipe.seed, Stream.ORDER, epoch, np.arange(len(rows)))
        slices = np.array_split(rows[np.argsort(words, kind="stable")], parts)
        total = torch.zeros(len(choices), device=device)
        for step, (numbers, batch) in enumerate(zip(slices, tokens.batches(slices), strict=True)):
            target = torch.from_numpy(labels[numbers]).to(device)
            for i, (head, optimizer) in enumerate(zip(heads, optimizers, strict=True)):
                for group in optimizer.param_groups:
                    group["lr"] = lr_at(
                        epoch + step / parts,
                        lr=choices[i].lr,
                        min_lr=0.0,
                        warmup_epochs=recipe.epochs / 10,
                        epochs=recipe.epochs,
                    )
                loss = F.cross_entropy(head(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total[i] += loss.detach() * len(numbers) / len(rows)
        if (epoch + 1) % -(-recipe.epochs // MOST_LINES) == 0 or epoch + 1 == recipe.epochs:
            losses = " ".join(f"{value:.3f}" for value in total.tolist())
            say(f"  epoch {epoch + 1}/{recipe.epochs}  loss {losses}")
    return heads


@torch.no_grad()
def ranks(
    heads: Sequence[AttentiveHead],
    tokens: Tokens,
    labels: npt.NDArray[np.int64],
    rows: Rows,
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """[heads rows] of each image's own class: `ranks_of_truth`."""
    slices = np.array_split(rows, -(-len(rows) // batch_size))
    found = []
    for numbers, batch in zip(slices, tokens.batches(slices), strict=True):
        above = [ranks_of_truth(head(batch), labels[numbers]) for head in heads]
        found.append(torch.stack(above).cpu())
    return torch.cat(found, dim=1).numpy()
