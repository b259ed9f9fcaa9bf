"""Findings on a ladder: groups of latents that are not used."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled
from mae.objectives.vae.diagnosis import FEWEST_ACTIVE, FEWEST_NATS
from mae.objectives.vae.ladder.groups import MOST_GROUPS, group_key


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on single groups by the last evaluation of held-out images, after the warm-up."""
    last: dict = dict(*settled(run, run.health)[-1:])
    for group in range(1, MOST_GROUPS + 1):
        active, nats = (number(last, group_key(key, group)) for key in ("active", "kl_nats"))
        if active is None or nats is None:
            continue
        if active < FEWEST_ACTIVE or nats < FEWEST_NATS:
            yield Finding(
                "watch",
                f"Group {group} has collapsed: {active:.0%} of its latents are active, "
                f"{nats:.2f} nats per image",
                "The other groups do without it. Keep model.balance on, lengthen "
                "model.beta_warmup, set model.free_bits, or leave the group out.",
            )
