"""Findings on a prior over codes: no better than their frequencies; overfitting."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled
from mae.objectives.autoencoders.diagnosis import LARGEST_GAP


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on the bits per code of held-out images."""
    health, metrics = settled(run, run.health)[-1:], settled(run, run.metrics)[-1:]
    bits = number(health[0], "bits") if health else None
    if bits is None:
        return
    marginal = number(health[0], "bits_marginal")
    if marginal is not None and bits >= marginal:
        yield Finding(
            "watch",
            f"{bits:.2f} bits per code are no better than the frequencies alone, {marginal:.2f}",
            "A table of frequencies needs no more: train for longer, with a larger transformer, or "
            "on more images.",
        )
    training = number(metrics[0], "bits") if metrics else None
    if training and bits / training > LARGEST_GAP:
        yield Finding(
            "watch",
            f"Held-out codes cost {bits / training:.2f} times the bits of training codes",
            f"Above {LARGEST_GAP} the prior memorises: train for fewer epochs, with a smaller "
            "transformer, or on more images.",
        )
