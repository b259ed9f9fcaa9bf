"""Findings on a sparse autoencoder: dead latents."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding, RunRecord, number
from mae.objectives.autoencoders.diagnosis import settled

MOST_DEAD = 0.1
"""share of latents without a use, above which capacity is wasted"""


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Finding on the share of dead latents, on training images, after the warm-up."""
    rows = settled(run, run.metrics)
    dead = number(rows[-1], "dead_latents") if rows else None
    if dead is not None and dead > MOST_DEAD:
        is_l1 = run.settings.get("model.sparsity") == "l1"
        remedy = "lower model.l1_weight" if is_l1 else "raise model.aux_weight or model.aux_k"
        yield Finding(
            "watch",
            f"{dead:.0%} of the latents are dead",
            "They have not been used for model.dead_after images, and above "
            f"{MOST_DEAD:.0%} capacity is wasted: {remedy}, or choose a smaller model.latent_dim.",
        )
