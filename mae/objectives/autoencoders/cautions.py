"""Findings on an autoencoder's settings, before it is trained."""

from collections.abc import Iterator

from mae.config.sections import Config
from mae.evaluation.diagnosis import Finding
from mae.objectives.autoencoders.diagnosis import USES_PER_CODE

LARGE = 0.5
"""numbers in the latents, as a share of the image's, from which hardly anything is compressed"""


def unmeasured(config: Config) -> Iterator[Finding]:
    """Finding where no held-out images are measured, which most other findings need."""
    if config.data.held_out and config.log.health_every != 0:
        return
    missing = "log.health_every=0" if config.data.held_out else "data.val is not set"
    yield Finding(
        "watch",
        f"{missing}: nothing is measured on held-out images",
        "Collapse, memorised images and results no better than the baselines stay unseen: give "
        "some shards that are not trained on (mae pack --val).",
    )


def about_latents(numbers: int | None, whole: int | None) -> Iterator[Finding]:
    """Finding on latents of `numbers` for images of `whole` numbers, that compress little.

    As many numbers as the image has are an error.
    """
    if numbers and whole and LARGE * whole <= numbers < whole:
        yield Finding(
            "watch",
            f"Latents of {numbers:,} numbers for images of {whole:,}",
            f"From {LARGE:.0%} on an autoencoder comes close to copying its input, and its latents "
            "to pixels: choose a smaller model.latent_dim, or more model.stages.",
        )


def about_few_images(numbers: int, images: int) -> Iterator[Finding]:
    """Finding on `numbers` in the latents of a whole image that tell all training images apart."""
    if numbers >= images:
        yield Finding(
            "watch",
            f"{numbers:,} latents for {images:,} training images",
            "With as many numbers as images even PCA reproduces all of them, and new images of the "
            "kind may fail: choose fewer model.latent_dim, or more images.",
        )


def about_samples(reason: str) -> Iterator[Finding]:
    """Finding on a run whose samples will be refused for a `reason`."""
    if reason:
        yield Finding("watch", "mae sample will refuse this run", f"It is {reason}.")


def about_codebook(codes: int, positions: int, images: int) -> Iterator[Finding]:
    """Finding on more `codes` than `images` with so many code `positions` each can use."""
    uses = positions * images / codes
    if uses < USES_PER_CODE:
        yield Finding(
            "watch",
            f"{codes:,} codes for {positions * images:,} positions in {images:,} images: "
            f"{uses:.2g} uses of a code in an epoch",
            f"Below {USES_PER_CODE} most codes stay unused, whatever the training: choose fewer "
            "(or smaller model.levels), or more images.",
        )
