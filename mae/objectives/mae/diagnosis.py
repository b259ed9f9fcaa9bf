"""Findings on a run of masked autoencoding, each with its threshold."""

from collections.abc import Iterator
from statistics import median

from mae.evaluation.diagnosis import Finding, RunRecord, number, series


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
    elif smooth is not None and r2 < smooth:
        yield Finding(
            "watch",
            f"R² {r2:.2f} below smooth interpolation ({smooth:.2f})",
            "Filling in from the visible patches, without a model, explains more.",
        )
    elif r2 <= 0:
        yield Finding(
            "bad",
            f"Held-out R² {r2:.2f}: the model does no better than predicting the mean",
            "Above 0 structure begins. Is the learning rate too high, or mean and std of the data "
            "wrong?",
        )
    else:
        rivals = (("interpolation", smooth), ("the patch mean", means))
        beaten = [f"{name} ({value:.2f})" for name, value in rivals if value is not None]
        yield Finding(
            "good" if beaten else "note",
            f"Held-out R² {r2:.2f}" + f", above {' and '.join(beaten)}" * bool(beaten),
            "Share of the hidden pixels' variance that is explained, on images it never saw.",
        )
    seen = series(metrics, "r2", warmup_epochs)
    if seen and median(seen[-5:]) - r2 > 0.1:
        yield Finding(
            "watch",
            f"R² is {median(seen[-5:]) - r2:.2f} lower on held-out images than in training",
            "A gap above 0.1: too many passes over too few images, or images of another kind.",
        )
