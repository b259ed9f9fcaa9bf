"""Findings on a denoising autoencoder: noise too weak to see; results no better than baselines."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled

WEAKEST = 0.5
"""standard deviation of the noise in levels of the files, below which rounding is as strong"""


def about_strength(strength: float, bits: int) -> Iterator[Finding]:
    """Finding on Gaussian noise of a standard deviation `strength`, of 1, that rounding hides."""
    levels = strength * (2**bits - 1)
    if levels < WEAKEST:
        yield Finding(
            "watch",
            f"model.strength={strength:g} is {levels:.2g} levels of {bits} bits: hardly any noise",
            "The network can copy its input: set the standard deviation of the noise that it is to "
            "remove, of pixels in [0, 1].",
        )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Finding on the last evaluation of held-out images, after the first fifth of the run."""
    rows = settled(run, run.health)
    keys = ("psnr", "psnr_noisy", "psnr_pca")
    ours, noisy, pca = (number(rows[-1] if rows else {}, key) for key in keys)
    if ours is None or noisy is None:
        return
    if ours <= noisy:
        yield Finding(
            "bad",
            f"Results at {ours:.2f} dB are no better than the noisy images, {noisy:.2f} dB",
            "Nothing is denoised: train for longer or with a higher optim.lr; keep "
            "model.residual=true, and a map of latents (model.latent=map).",
        )
    elif pca is not None and ours < pca:
        yield Finding(
            "watch",
            f"Results at {ours:.2f} dB, and PCA of the noisy images at {pca:.2f} dB",
            "A projection onto the principal components of clean images does more: train for "
            "longer or on more images, with fewer model.stages or a larger model.latent_dim.",
        )
