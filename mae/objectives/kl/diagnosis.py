"""Findings on an autoencoder of latent diffusion: no better than PCA, latents of odd scale."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import Row, RunRecord, number, settled

SMALLEST_GAIN = 1.0
"""PSNR in dB above that of patch-PCA, below which a linear map does as well"""

SCALED = (0.9, 1.1)
"""range of the held-out latents' standard deviation times the scaling factor"""

LARGEST_Z = 30.0
"""standard deviations from the mean of its channel, above which a latent is an outlier"""


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on the last evaluation of held-out images."""
    rows = settled(run, run.health)
    if rows:
        yield from about_baseline(rows[-1])
        yield from about_latents(rows[-1])


def about_baseline(row: Row) -> Iterator[Finding]:
    """Finding where patch-PCA reconstructs nearly as well."""
    psnr, pca = number(row, "psnr"), number(row, "psnr_pca")
    if psnr is None or pca is None or psnr - pca >= SMALLEST_GAIN:
        return
    yield Finding(
        "watch",
        f"Reconstructions at {psnr:.2f} dB are less than {SMALLEST_GAIN:g} dB better than PCA of "
        f"patches with as many numbers, {pca:.2f} dB",
        "Train for longer or with a wider network, raise optim.blr, or start from a trained "
        "autoencoder (init.from=FOLDER of diffusers).",
    )


def about_latents(row: Row) -> Iterator[Finding]:
    """Findings on latents that a diffusion model would learn badly."""
    scaled, dead, z = (number(row, key) for key in ("scaled_std", "dead_channels", "max_z"))
    if scaled is not None and not SCALED[0] <= scaled <= SCALED[1]:
        yield Finding(
            "watch",
            f"Held-out latents have {scaled:.2f} times the standard deviation of training",
            f"Outside {SCALED[0]}–{SCALED[1]} the exported scaling factor does not fit them: the "
            "weights still change fast (train on to the end of the schedule), or the held-out "
            "images are of another kind.",
        )
    if dead:
        yield Finding(
            "bad",
            f"{dead:.0f} channels of the latents are dead: standard deviation below a hundredth",
            "The decoder does without them: choose a smaller model.latent_dim, a smaller "
            "model.kl_weight, or train for longer.",
        )
    if z is not None and z > LARGEST_Z:
        yield Finding(
            "watch",
            f"A latent lies {z:.0f} standard deviations from the mean of its channel",
            f"Above {LARGEST_Z:.0f} such outliers dominate the loss of a diffusion model: raise "
            "model.kl_weight, or lower the learning rate.",
        )
