"""Findings on a run of masked autoencoding, each with its threshold."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from mae.config.choices import GIVEN
from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import Row, RunRecord, number, series, settled
from mae.objectives.shared_sections import count_patches

LOWEST_RATIO, HIGHEST_RATIO = 0.5, 0.9
"""mask ratios outside of which features get worse (He et al. 2021, figure 5: best from 0.4 to
0.8)"""

FEWEST_VISIBLE = 4
"""visible patches of an image, below which there is hardly anything to predict from"""

SMALLEST_GAIN = 0.2
"""share of interpolation's squared error that the model saves, below which hidden patches are
guessed from their neighbours"""

EARLY = 0.5
"""share of the run after the warm-up in which R² still rises too much to be compared"""

MANY_PATCHES = 144
"""patches of an image, from which larger ones are proposed: of fewer too few would be left"""

MOST_FLAT = 0.3
"""share of patches that vary by less than a level, above which normalised targets are mostly
rounding"""

OF_NORMALISED = (
    " Pixels are normalised within each patch (model.norm_pix_loss): values far below those of "
    "plain pixels are usual, and the two do not compare."
)


def about_mask_ratio(ratio: float, patches: int | None) -> Iterator[Finding]:
    """Findings on a mask that hides too little, or leaves too little; `patches` of an image."""
    if ratio < LOWEST_RATIO:
        yield Finding(
            "watch",
            f"model.mask_ratio={ratio:g} hides less than half of the patches",
            "What is hidden can be guessed from its neighbours, which teaches texture instead of "
            "content, and every step costs more. Use 0.75; below 0.5 only for a comparison.",
        )
    elif ratio > HIGHEST_RATIO:
        yield Finding(
            "watch",
            f"model.mask_ratio={ratio:g} leaves {1 - ratio:.0%} of the patches",
            "Too little to tell what is hidden: in the paper results fall above 0.8. Use 0.75.",
        )
    if patches is None:
        return
    visible = int(patches * (1 - ratio))
    if visible < FEWEST_VISIBLE:
        yield Finding(
            "watch",
            f"{visible} of {patches} patches of an image are visible",
            f"Below {FEWEST_VISIBLE} there is hardly anything to predict from: choose a smaller "
            "model.patch_size (for images of 32 px: 4 or 2) or a larger data.img_size.",
        )


def about_gain(
    r2: float, smooth: float, mask_ratio: float | None, larger_patches: bool
) -> Iterator[Finding]:
    """Finding on R² hardly above that of interpolation, `smooth`, which is below 1.

    `larger_patches`: propose them.
    """
    gain = 1 - (1 - r2) / (1 - smooth)
    if gain >= SMALLEST_GAIN:
        return
    if gain >= 0:
        text = f"Only {gain:.0%} less error than interpolation from the visible patches"
    else:
        text = f"R² {r2:.2f} below smooth interpolation ({smooth:.2f})"
    if mask_ratio is not None and mask_ratio < 0.75:
        remedy = "raise model.mask_ratio (0.75 is usual)."
    elif larger_patches:
        remedy = (
            "train for longer, or with larger patches (model.patch_size), which cannot be filled "
            "in so smoothly."
        )
    else:
        remedy = "train for longer."
    reason = f"Below {SMALLEST_GAIN:.0%} little more is learned than to continue what is visible: "
    yield Finding("watch", text, reason + remedy)


def has_large_patches(settings: Mapping[str, Any]) -> bool:
    """True where an image has few patches, or auto chose their size: larger ones are no remedy."""
    if settings.get("auto.chosen.model.patch_size", GIVEN) != GIVEN:
        return True
    size, side = settings.get("data.img_size"), settings.get("model.patch_size")
    pair = isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) for n in size)
    count = count_patches(
        str(settings.get("model.encoder")),
        side if isinstance(side, int) else None,
        (size[0], size[1]) if pair else None,
    )
    return count is not None and count < MANY_PATCHES


def is_early(run: RunRecord, row: Row) -> bool:
    """True in the warm-up and the share EARLY of the run after it."""
    warmup = run.warmup_epochs
    rest = max(0.0, (number(run.settings, "train.epochs") or 0.0) - warmup)
    return (number(row, "epoch") or 0.0) <= warmup + EARLY * rest


def about_targets(run: RunRecord) -> Iterator[Finding]:
    """Findings on hidden patches that are guessed from their neighbours, or hold rounding."""
    for row in settled(run, run.health)[-1:]:
        r2, smooth, flat = (number(row, key) for key in ("r2", "r2_interpolation", "flat_patches"))
        if r2 is not None and smooth is not None and smooth < 1 and not is_early(run, row):
            ratio = number(run.settings, "model.mask_ratio")
            yield from about_gain(r2, smooth, ratio, not has_large_patches(run.settings))
        if flat is not None and flat > MOST_FLAT and run.settings.get("model.norm_pix_loss"):
            yield Finding(
                "watch",
                f"{flat:.0%} of the patches are flat: they vary by less than one level",
                "model.norm_pix_loss divides by that, so that rounding counts as much as content "
                f"and brightness not at all. Above {MOST_FLAT:.0%} compare with "
                "model.norm_pix_loss=false, larger patches, or images cut to their content.",
            )


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on held-out R², compared with trivial predictors and with the training images."""
    metrics, health, warmup_epochs = run.metrics, run.health, run.warmup_epochs
    last = health[-1] if health else {}
    r2, smooth, means = (number(last, key) for key in ("r2", "r2_interpolation", "r2_patch_mean"))
    if r2 is None or (number(last, "epoch") or 0.0) <= warmup_epochs:
        trained = series(metrics, "r2", warmup_epochs)
        if trained and not health and trained[-1] <= 0:
            yield Finding(
                "bad",
                f"R² {trained[-1]:.2f}: the model does no better than predicting the mean",
                "It should leave 0 within the warm-up. Is the learning rate too high, or mean and "
                "std of the data wrong?",
            )
        return
    is_beaten = smooth is not None and r2 < smooth  # which `about_targets` names
    is_hard = "It uses the true mean of every hidden patch: a model may stay below it for long."
    if means is not None and r2 < means:
        is_floor = abs(means) < 0.01  # normalised targets: no structure at all
        yield Finding(
            "bad" if is_floor else "watch",
            f"R² {r2:.2f} below the patch mean ({means:.2f})"
            + (": the model has not learned structure yet" if is_floor else ""),
            "With normalised targets the patch mean explains nothing; above 0 structure begins."
            if is_floor
            else is_hard,
        )
    elif r2 <= 0 and not is_beaten:
        yield Finding(
            "bad",
            f"Held-out R² {r2:.2f}: the model does no better than predicting the mean",
            "Above 0 structure begins. Is the learning rate too high, or mean and std of the data "
            "wrong?",
        )
    elif not is_beaten:
        rivals = (("interpolation", smooth), ("the patch mean", means))
        beaten = [f"{name} ({value:.2f})" for name, value in rivals if value is not None]
        yield Finding(
            "good" if beaten else "note",
            f"Held-out R² {r2:.2f}" + f", above {' and '.join(beaten)}" * bool(beaten),
            "Share of the hidden pixels' variance that is explained, on images it never saw."
            + OF_NORMALISED * bool(run.settings.get("model.norm_pix_loss")),
        )
    yield from about_targets(run)
    seen = series(metrics, "r2", warmup_epochs)
    if seen and median(seen[-5:]) - r2 > 0.1:
        yield Finding(
            "watch",
            f"R² is {median(seen[-5:]) - r2:.2f} lower on held-out images than in training",
            "A gap above 0.1: too many passes over too few images, or images of another kind.",
        )
