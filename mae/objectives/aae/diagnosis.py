"""Finding on an adversarial autoencoder: latents that do not follow the prior."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled

SMALLEST_STD, LARGEST_STD = 0.5, 2.0
"""range of a latent's standard deviation, which is 1 in the prior"""

LARGEST_KS = 0.2
"""Kolmogorov-Smirnov distance of a latent from N(0, 1); half a standard deviation off the mean
reaches it"""


HEAVY = 0.3
"""weight of the critic from which the latents' means swing about the prior's on digits"""


def about_critic(weight: float) -> Iterator[Finding]:
    """Finding on a critic that weighs too much."""
    if weight >= HEAVY:
        yield Finding(
            "watch",
            f"model.adv={weight:g} makes the latents swing about the prior",
            f"On digits {HEAVY} was farther from it than 0.1 (largest Kolmogorov-Smirnov distance "
            ".53, at 19.9 instead of 21.7 dB): begin with 0.1.",
        )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Finding on the last evaluation of held-out images, after the warm-up."""
    rows = settled(run, run.health)
    if not rows:
        return
    keys = ("std_smallest", "std_largest", "ks_largest")
    smallest, largest, distance = (number(rows[-1], key) for key in keys)
    if smallest is None or largest is None or distance is None:
        return
    if smallest >= SMALLEST_STD and largest <= LARGEST_STD and distance <= LARGEST_KS:
        return
    yield Finding(
        "watch",
        f"The latents do not follow the prior: standard deviations of {smallest:.2f} to "
        f"{largest:.2f}, and a Kolmogorov-Smirnov distance of up to {distance:.2f}",
        f"Samples are decoded from latents that no image has. Outside of {SMALLEST_STD} to "
        f"{LARGEST_STD:g} raise model.adv. Where only the distance is above {LARGEST_KS}, means "
        "swing about the prior's: lower model.adv, raise model.critic_lr_scale, or train longer.",
    )
