"""Findings on any autoencoder: latents too large, copies; codes or latents that are not used."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled
from mae.objectives.autoencoders.code_level import CodeLevel

Severity: TypeAlias = Literal["watch", "bad"]

LARGEST_GAP = 1.2
"""held-out error / training error, above which latents memorise images"""

FEWEST_USED, SMALLEST_PERPLEXITY = 0.5, 0.1
"""share of the codes in use, and perplexity as a share of their number, below which the codebook
has collapsed"""

USES_PER_CODE = 10
"""uses per code that the share of codes in use is evaluated on"""


COPIED = 50.0
"""PSNR in dB from which a reconstruction equals the image for the eye: errors below a level of 8
bits"""

MOST_DEAD = 0.1
"""share of latents without a use, above which capacity is wasted"""


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


def about_copies(run: RunRecord) -> Iterator[Finding]:
    """Finding where held-out images come out as they went in."""
    rows = settled(run, run.health)
    psnr = number(rows[-1], "psnr") if rows else None
    if psnr is not None and psnr >= COPIED:
        yield Finding(
            "watch",
            f"Reconstructions equal the images: PSNR {psnr:.0f} dB",
            f"From {COPIED:.0f} dB on the network copies its input, and its latents are pixels in "
            "another order: a smaller model.latent_dim or more noise makes them say something.",
        )


def about_codes(
    run: RunRecord, level: CodeLevel, codes: int, remedy: str, severity: Severity
) -> Iterator[Finding]:
    """Finding where few of a level's `codes` are used, on held-out or else training images."""
    for row in (*settled(run, run.health)[-1:], *settled(run, run.metrics)[-1:]):
        used, effective = number(row, level.key("usage")), number(row, level.key("perplexity"))
        uses = number(row, level.key("codes_seen"))
        if used is None or effective is None or uses is None or uses < USES_PER_CODE * codes:
            continue
        if used < FEWEST_USED or effective / codes < SMALLEST_PERPLEXITY:
            yield Finding(
                severity,
                f"The {level.words} have collapsed: {used:.0%} of them are used, with a "
                f"perplexity of {effective:.0f}",
                f"Below {FEWEST_USED:.0%}, or a perplexity of {SMALLEST_PERPLEXITY:.0%} of the "
                f"codes, most of them stand for nothing. {remedy}",
            )
        return


def about_dead(run: RunRecord, remedy: str) -> Iterator[Finding]:
    """Finding on the share of dead latents, on training images, after the warm-up."""
    rows = settled(run, run.metrics)
    dead = number(rows[-1], "dead_latents") if rows else None
    if dead is not None and dead > MOST_DEAD:
        yield Finding(
            "watch",
            f"{dead:.0%} of the latents are dead",
            "They have not been used for model.dead_after images or tokens, and above "
            f"{MOST_DEAD:.0%} capacity is wasted: {remedy}.",
        )
