"""Findings on a variational autoencoder: collapse of the posterior, beta too high."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled

FEWEST_ACTIVE, FEWEST_NATS = 0.1, 0.5
"""share of active latents, and KL divergence in nats per image, below which the decoder ignores its
input"""

SMALLEST_GAIN = 1.0
"""PSNR in dB above that of the mean image, below which the latents say nothing"""


LARGEST_BETA = 20.0
"""beta above which little is left of the images: on digits 20 leaves a third of the gain in PSNR
over the mean image, 100 nothing"""


def about_beta(beta: float) -> Iterator[Finding]:
    """Finding on a large weight of the KL divergence."""
    if beta > LARGEST_BETA:
        yield Finding(
            "watch",
            f"model.beta={beta:g} is likely to collapse the posterior",
            f"Above {LARGEST_BETA:g} little is left of the images (on digits with 16 latents: a "
            "third of the gain over the mean image at 20, nothing at 100). Begin at 1 to 4 and "
            "raise it while psnr stays above psnr_mean_image.",
        )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on the last evaluation of held-out images, after the warm-up."""
    rows = settled(run, run.health)
    if not rows:
        return
    last = rows[-1]
    active, nats = number(last, "active"), number(last, "kl_nats")
    if active is None or nats is None:
        return
    if active < FEWEST_ACTIVE or nats < FEWEST_NATS:
        yield Finding(
            "bad",
            f"The posterior has collapsed: {active:.0%} of the latents are active, "
            f"{nats:.2f} nats per image",
            "The decoder ignores its input. Lower model.beta, lengthen model.beta_warmup, set "
            "model.free_bits (0.1 is usual), or make the decoder smaller.",
        )
        return
    psnr, mean_image = number(last, "psnr"), number(last, "psnr_mean_image")
    if psnr is not None and mean_image is not None and psnr - mean_image < SMALLEST_GAIN:
        yield Finding(
            "bad",
            f"Reconstructions are hardly better than the mean image: {psnr:.2f} dB, and "
            f"{mean_image:.2f} dB",
            "The KL divergence costs more than the latents are worth, though they may count as "
            "active: lower model.beta.",
        )
