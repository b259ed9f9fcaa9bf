"""What the numbers of a pretraining run mean, in plain words: each verdict with its threshold.

Rules of thumb, not proofs.  They work on rows as metrics.jsonl and health.jsonl hold them, any of
which may lack a number or hold one that is not finite.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from mae.evaluation.rows import Row, number, series
from mae.evaluation.training_verdicts import (
    Verdict,
    about_loss,
    about_speed,
    about_steps,
    worst_first,
)

COLLAPSED, NARROW = 0.02, 0.05
"""RankMe as a share of what it can be: a fresh ViT has some 0.03, a good one 0.2 and more"""


def judge(
    metrics: Sequence[Row], health: Sequence[Row] = (), warmup_epochs: float = 0.0
) -> list[Verdict]:
    """All that can be said, the bad first.  Rows in the order of their steps."""
    return worst_first(
        [
            *about_loss(metrics, warmup_epochs),
            *about_steps(metrics),
            *about_speed(metrics),
            *_about_collapse(health, warmup_epochs),
            *_about_learning(metrics, health, warmup_epochs),
            *_about_labels(health),
        ]
    )


def _about_collapse(health: Sequence[Row], warmup_epochs: float) -> Iterator[Verdict]:
    ranks = series(health, "rankme", warmup_epochs)
    last = health[-1] if health else {}
    rank = number(last, "rankme")
    if rank is None and "rankme" in last:
        yield Verdict("bad", "Features are not numbers", "The encoder's output is not finite.")
    if not ranks or rank is None:
        return
    most = max(1.0, min(number(last, "images") or rank, number(last, "width") or rank))
    share = rank / most
    shown = f"RankMe {rank:.0f} of {most:.0f}"
    why = (
        "RankMe counts the dimensions that the features of held-out images use. Below "
        f"{COLLAPSED:.0%} of them is collapse, below {NARROW:.0%} narrow; freshly initialised "
        "encoders are narrow too, so only what follows the warm-up counts."
    )
    dead, peak = number(last, "dead") or 0.0, max(ranks)
    if share < COLLAPSED or (number(last, "spread") or 1.0) < 0.01:
        yield Verdict("bad", f"Features collapse: {shown}", why)
    elif share < NARROW:
        yield Verdict("watch", f"Features are narrow: {shown}", why)
    elif rank < peak / 2:
        yield Verdict(
            "watch",
            f"Features are losing dimensions: {shown}, {peak:.0f} at best",
            "Less than half of the run's best RankMe.",
        )
    else:
        yield Verdict("good", f"Features are spread out: {shown}", why)
    if dead > 0.1:
        yield Verdict(
            "bad" if dead > 0.5 else "watch",
            f"{dead:.0%} of the feature dimensions are dead",
            "They vary less than 1 % of 1/sqrt(width) over images; above 10 % is unusual.",
        )


def _about_learning(
    metrics: Sequence[Row], health: Sequence[Row], warmup_epochs: float
) -> Iterator[Verdict]:
    last = health[-1] if health else {}
    r2, smooth, means = (number(last, key) for key in ("r2", "r2_interpolation", "r2_patch_mean"))
    if r2 is None or (number(last, "epoch") or 0.0) <= warmup_epochs:
        trained = series(metrics, "r2", warmup_epochs)
        if trained and not health and trained[-1] <= 0:
            yield Verdict(
                "bad",
                f"R² {trained[-1]:.2f}: the model does no better than predicting the mean",
                "It should leave 0 within the warm-up. Is the learning rate too high, or mean and "
                "std of the data wrong?",
            )
        return
    told = "Every hidden patch's true mean is told to it, so a model may trail it for long."
    if means is not None and r2 < means:
        is_floor = abs(means) < 0.01  # normalised targets: no structure at all
        yield Verdict(
            "bad" if is_floor else "watch",
            f"R² {r2:.2f} below the patch mean ({means:.2f})"
            + (": the model has not learned structure yet" if is_floor else ""),
            "With normalised targets the patch mean explains nothing; above 0 structure begins."
            if is_floor
            else told,
        )
    elif smooth is not None and r2 < smooth:
        yield Verdict(
            "watch",
            f"R² {r2:.2f} below smooth interpolation ({smooth:.2f})",
            "Filling in from the visible patches, without a model, explains more.",
        )
    else:
        rivals = (("interpolation", smooth), ("the patch mean", means))
        beaten = [f"{name} ({value:.2f})" for name, value in rivals if value is not None]
        yield Verdict(
            "good",
            f"Held-out R² {r2:.2f}" + f", above {' and '.join(beaten)}" * bool(beaten),
            "Share of the hidden pixels' variance that is explained, on images it never saw.",
        )
    seen = series(metrics, "r2", warmup_epochs)
    if seen and median(seen[-5:]) - r2 > 0.1:
        yield Verdict(
            "watch",
            f"R² is {median(seen[-5:]) - r2:.2f} lower on held-out images than in training",
            "A gap above 0.1: too many passes over too few images, or images of another kind.",
        )


def _about_labels(health: Sequence[Row]) -> Iterator[Verdict]:
    found = series(health, "knn")
    chance = number(health[-1], "chance") if health else None
    if not found or chance is None:
        return
    smoke = (
        "A smoke signal only: k-NN reads features as they lie, MAE's case is fine-tuning. Judge by "
        "its direction, not its height."
    )
    now, best = found[-1], max(found)
    if now < chance + 0.02:
        yield Verdict("watch", f"k-NN accuracy {now:.0%} is chance ({chance:.0%})", smoke)
    elif len(found) > 2 and now < 0.9 * best:
        yield Verdict("watch", f"k-NN accuracy {now:.0%}, down from {best:.0%}", smoke)
    else:
        yield Verdict("good", f"k-NN accuracy {now:.0%} (chance {chance:.0%})", smoke)
