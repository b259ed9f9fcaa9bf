"""Findings on any autoencoder: latents too large; codes that are not used."""

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from mae.evaluation.diagnosis import Finding, Row, RunRecord, number

Level: TypeAlias = Literal["watch", "bad"]

YOUNG = 0.2
"""share of the run, besides the warm-up, in which nothing is concluded yet"""

LARGEST_GAP = 1.2
"""held-out error / training error, above which latents memorise images"""

FEWEST_USED, SMALLEST_PERPLEXITY = 0.5, 0.1
"""share of the codes in use, and perplexity as a share of their number, below which the codebook
has collapsed"""

USES_PER_CODE = 10
"""uses per code that the share of codes in use is evaluated on"""


def settled(run: RunRecord, rows: Sequence[Row]) -> list[Row]:
    """Rows after the warm-up and the first fifth of the run."""
    start = max(run.warmup_epochs, YOUNG * (number(run.settings, "train.epochs") or 0.0))
    return [row for row in rows if (number(row, "epoch") or 0.0) > start]


def about_gap(run: RunRecord) -> Iterator[Finding]:
    """Finding where held-out images are reconstructed much worse than training images."""
    health, metrics = settled(run, run.health), settled(run, run.metrics)
    if not health or not metrics:
        return
    held_out, training = number(health[-1], "psnr"), number(metrics[-1], "psnr")
    if held_out is None or training is None:
        return
    ratio = 10 ** ((training - held_out) / 10)
    if ratio > LARGEST_GAP:
        yield Finding(
            "watch",
            f"The held-out error is {ratio:.2f} times that of training images",
            f"Above {LARGEST_GAP} the latents are large enough to memorise: choose a smaller "
            "model.latent_dim or fewer codes, train for fewer epochs, or on more images.",
        )


def about_codes(run: RunRecord, codes: int, remedy: str, level: Level) -> Iterator[Finding]:
    """Finding where few of the `codes` are used, on held-out images or else training images."""
    for row in (*settled(run, run.health)[-1:], *settled(run, run.metrics)[-1:]):
        used, effective = number(row, "usage"), number(row, "perplexity")
        uses = number(row, "codes_seen")
        if used is None or effective is None or uses is None or uses < USES_PER_CODE * codes:
            continue
        if used < FEWEST_USED or effective / codes < SMALLEST_PERPLEXITY:
            yield Finding(
                level,
                f"The codes have collapsed: {used:.0%} of them are used, with a perplexity of "
                f"{effective:.0f}",
                f"Below {FEWEST_USED:.0%}, or a perplexity of {SMALLEST_PERPLEXITY:.0%} of the "
                f"codes, most of them stand for nothing. {remedy}",
            )
        return
