"""Findings on a sparse autoencoder: dead latents."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord
from mae.objectives.autoencoders.diagnosis import about_dead

FEWEST_TURNS = 3
"""turns in which a latent that is used as often as the others comes up, before it counts as dead"""


def without_auxiliary_loss(weight: float) -> Iterator[Finding]:
    """Finding on latents that nothing brings back once they are unused."""
    if not weight:
        yield Finding(
            "watch",
            "model.aux_weight=0: latents that are not used stay so",
            "On digits 60 to 65 % of them were dead at the end, instead of 2 %: leave it at its "
            "default, unless as a comparison.",
        )


def about_rare_use(dead_after: int, k: int, latents: int) -> Iterator[Finding]:
    """Finding where latents in even use count as dead, as each comes up once in latents / k."""
    turn = latents / k
    if dead_after < FEWEST_TURNS * turn:
        yield Finding(
            "watch",
            f"model.dead_after={dead_after} is short for {k} of {latents:,} latents",
            f"In even use each comes up once in {turn:.0f} images, and would often count as dead: "
            f"{FEWEST_TURNS * turn:.0f} or more.",
        )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Finding on the share of dead latents."""
    is_l1 = run.settings.get("model.sparsity") == "l1"
    remedy = "lower model.l1_weight" if is_l1 else "raise model.aux_weight or model.aux_k"
    yield from about_dead(run, f"{remedy}, or choose a smaller model.latent_dim")
