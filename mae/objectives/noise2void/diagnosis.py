"""Findings on blind-spot denoising: correlated noise, removed content, results without effect."""

from collections.abc import Iterator

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord, number, settled

MOST_CORRELATED = 0.1
"""autocorrelation of the noise, of either sign, beyond which a blind spot is not blind to it"""

UNCHANGED = 50.0
"""PSNR in dB of the noisy image against the result, above which nothing was removed"""


def without_noise(correlation: float | None) -> Iterator[Finding]:
    """Finding on training images in which no noise was found."""
    if correlation is None:
        yield Finding(
            "watch",
            "No noise was found in the training images",
            "There is nothing to learn from: give images as the sensor recorded them, not averaged "
            "or denoised ones. What is removed from clean images are their details.",
        )


def about_noise(correlation: float | None) -> Iterator[Finding]:
    """Finding on noise that neighbouring pixels share."""
    if correlation is not None and abs(correlation) > MOST_CORRELATED:
        yield Finding(
            "bad",
            f"The noise is correlated: {correlation:.2f} between neighbouring pixels",
            f"Beyond ±{MOST_CORRELATED} a blind spot is predicted from the noise around it, which "
            "then stays in the result. Use the pixels as the sensor recorded them, or pairs with "
            "model.method=noise2noise.",
        )


def findings(run: RunRecord) -> Iterator[Finding]:
    """Findings on the noise, and on the last evaluation after the first fifth of the run."""
    yield from about_noise(number(run.settings, "model.noise_autocorrelation"))
    for row in settled(run, run.health)[-1:]:
        unchanged = number(row, "psnr_unchanged")
        if unchanged is not None and unchanged > UNCHANGED:
            yield Finding(
                "bad",
                f"The result equals the noisy image: PSNR {unchanged:.0f} dB",
                "The network copies its input, or the images hold hardly any noise.",
            )
        removed = number(row, "residual_correlation")
        if removed is not None and abs(removed) > MOST_CORRELATED:
            yield Finding(
                "watch",
                f"What was removed is correlated with the result: {removed:.2f}",
                f"Beyond {MOST_CORRELATED} it holds a part of the image, or the noise depends on "
                "brightness or is clipped: look at the removed part on the panels, and train for "
                "longer or on more images.",
            )
        ours, mean = number(row, "psnr_target"), number(row, "psnr_interpolated")
        if ours is not None and mean is not None and ours <= mean:
            yield Finding(
                "bad",
                f"Hidden pixels are predicted at {ours:.2f} dB, their neighbours' mean at "
                f"{mean:.2f} dB",
                "The network has learned nothing that averaging does not know: train for longer, "
                "or with a higher optim.lr.",
            )
