"""Diagnosis of a run: findings on its recorded numbers, each with threshold and reason.

The rules are rules of thumb.  They read the rows of metrics.jsonl and health.jsonl, any of which
may lack a number or hold one that is not finite.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median, stdev
from typing import Literal, NamedTuple

from mae.evaluation.run_record import Row, RunRecord, number, series, settled

LEVELS = ("bad", "watch", "note", "good")
"""worst first; a note is a number that is neither good nor bad by itself"""

ENOUGH = 12
"""minimum number of rows after warm-up for a trend"""

WAITING, STARVED = 0.1, 0.4
"""shares of time spent waiting for data, above which a run is to watch, or bad"""

COLLAPSED, NARROW = 0.02, 0.05
"""RankMe as a share of its maximum, below which features are bad, or to watch; an untrained ViT
reaches about 0.03, trained ones 0.2 and more"""

NOT_DOWN = 0.3
"""share of its peak above which the learning rate has not come down"""

COOLED = 0.05
"""share of the peak learning rate below which the loss hardly changes any more"""

RECENT = 5
"""number of rows that stand for the end of a run"""

ABOVE = 0.02
"""minimum margin of a k-NN accuracy above its baselines"""


class Finding(NamedTuple):
    """Finding of a diagnosis."""

    level: Literal["good", "note", "watch", "bad"]
    text: str
    """statement in one line"""
    reason: str
    """threshold, why it matters and what to do"""


def diagnose_run(run: RunRecord, own: Iterable[Finding] = ()) -> list[Finding]:
    """All findings on a run, worst first; `own` are those of its objective."""
    found = [
        *about_loss(run.metrics, run.warmup_epochs),
        *about_schedule(run),
        *own,
        *about_neighbours(run.health),
        *about_features(run.health, run.warmup_epochs),
        *about_steps(run.metrics),
        *about_speed(run.metrics),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def about_loss(metrics: Sequence[Row], warmup_epochs: float) -> Iterator[Finding]:
    """Finding on the loss: not finite, falling, steady or rising."""
    if metrics and "loss" in metrics[-1] and number(metrics[-1], "loss") is None:
        yield Finding(
            "bad",
            "The loss is not a number",
            "The last row has no finite loss. Lower optim.lr or optim.blr, or check the data of "
            "the steps before; resume from the last checkpoint.",
        )
        return
    losses = series(metrics, "loss", warmup_epochs)
    if len(losses) < ENOUGH:
        if metrics:
            yield Finding(
                "watch",
                "Too early to evaluate the loss",
                f"{len(losses)} rows after warm-up; trends need {ENOUGH}.",
            )
        return
    tenth = max(5, len(losses) // 10)
    before, last = losses[-2 * tenth : -tenth], losses[-tenth:]
    fall = 1 - fmean(last) / fmean(before) if fmean(before) else 0.0
    noise = math.hypot(stdev(last), stdev(before)) / math.sqrt(tenth) / abs(fmean(before) or 1.0)
    over = "over the last tenth" if tenth > 5 else f"over the last {tenth} rows"
    compared = (
        f"Mean of the last {tenth} rows against the {tenth} before; changes below twice the noise "
        f"({200 * noise:.1f} %) or below 0.5 % count as none."
    )
    if fall > max(0.005, 2 * noise):
        yield Finding(
            "good",
            f"Loss still falling: {100 * fall:.1f} % {over}",
            f"{compared} At the end of a run this means: longer training would still help.",
        )
    elif -fall > max(0.005, 2 * noise):
        yield Finding(
            "bad" if fall < -0.1 else "watch",
            f"Loss rising: {-100 * fall:.1f} % {over}",
            f"{compared} A loss that keeps rising after warm-up needs a lower learning rate.",
        )
    elif has_cooled(metrics):
        yield Finding(
            "note",
            f"Loss steady {over}, where the learning rate is near 0",
            f"{compared} At a learning rate that has come down below {COOLED:.0%} of its peak "
            "every loss is steady: it says nothing about whether longer training would help.",
        )
    else:
        yield Finding(
            "note",
            f"Loss steady {over}",
            f"{compared} It has converged, or does not learn: held-out measurements decide.",
        )


def about_schedule(run: RunRecord) -> Iterator[Finding]:
    """Finding on a run that has not reached the low learning rates of its end."""
    rates = series(run.metrics, "lr")
    epochs = number(run.settings, "train.epochs")
    epoch = number(run.metrics[-1], "epoch") if run.metrics else None
    if not rates or not epochs or epoch is None or not settled(run, run.metrics[-1:]):
        return
    share = rates[-1] / max(rates) if max(rates) > 0 else 0.0
    if epoch < 0.99 * epochs and share > NOT_DOWN:
        yield Finding(
            "note",
            f"Epoch {epoch:.0f} of {epochs:.0f}: the learning rate is at {share:.0%} of its peak",
            "The end of a run, at low rates, improves features most: of a run that was stopped "
            "here they are unfinished. Type the same command again, or start a run with as many "
            "epochs as there is time for.",
        )


def has_cooled(metrics: Sequence[Row]) -> bool:
    """True where the learning rate has come down to less than COOLED of its peak."""
    rates = series(metrics, "lr")
    return bool(rates) and rates[-1] < COOLED * max(rates)


def recent(rows: Sequence[Row], key: str) -> float | None:
    """Mean of a column over the steps of the last RECENT rows; None where the last has no number.

    Each row counts by its steps: the last one of a run may be of a single step.
    """
    if not rows or number(rows[-1], key) is None:
        return None
    steps = [number(row, "step") or 0.0 for row in rows[-RECENT - 1 :]]
    before = [0.0] * (len(rows) <= RECENT) + steps
    total = weights = 0.0
    for row, first, last in zip(rows[-RECENT:], before, before[1:], strict=False):
        if (value := number(row, key)) is not None:
            weight = max(1.0, last - first)
            total, weights = total + weight * value, weights + weight
    return total / weights


def about_steps(metrics: Sequence[Row]) -> Iterator[Finding]:
    """Findings on skipped steps, replaced images and growing gradients."""
    last = metrics[-1] if metrics else {}
    steps, skipped, bad = (number(last, key) or 0.0 for key in ("step", "skipped", "bad"))
    if skipped:
        share = skipped / max(steps, 1)
        yield Finding(
            "bad" if share > 0.01 else "watch",
            f"{skipped:,.0f} of {steps:,.0f} steps skipped",
            "Their gradients were not finite. Up to 1 % is survivable, any is unusual in bf16: "
            "see the events, and the learning rate.",
        )
    if bad:
        yield Finding(
            "watch",
            f"{bad:,.0f} unreadable image{'s' * (bad != 1)} replaced",
            "Named below with shard and key. data.max_bad of them stop the run; any is unusual.",
        )
    norms = series(metrics, "grad_norm")
    if len(norms) >= ENOUGH:
        usual, now = median(norms), median(norms[-max(5, len(norms) // 10) :])
        if now > 5 * usual:
            yield Finding(
                "watch",
                f"Gradients have grown to {now / usual:.0f} times the run's median",
                "Above 5 times an explosion may be near: lower the learning rate.",
            )


def about_speed(metrics: Sequence[Row]) -> Iterator[Finding]:
    """Findings on waiting for data and on a drop of speed."""
    waits = series(metrics[1:], "data_wait")  # the first row is start-up
    if waits:
        recent = waits[-max(5, len(waits) // 10) :]
        share = median(recent)
        hint = (
            f"Median of the last {len(recent)} rows; up to {WAITING:.0%} is fine, {STARVED:.0%} is "
            "bad. More data.workers, data.crop_on_device, data.repeats, or smaller images "
            "(mae pack --resize) feed it faster."
        )
        level = "bad" if share > STARVED else "watch" if share > WAITING else "good"
        yield Finding(level, f"{share:.0%} of the time is spent waiting for data", hint)
    speeds = series(metrics[1:], "images_per_second")
    if len(speeds) >= ENOUGH:
        usual, now = median(speeds), median(speeds[-max(5, len(speeds) // 10) :])
        if now < 0.7 * usual:
            yield Finding(
                "watch",
                f"Slower than before: {now:,.0f} images/s, the run's median is {usual:,.0f}",
                "Below 70 %: another job on the machine, a throttled device, slower storage?",
            )


def about_features(health: Sequence[Row], warmup_epochs: float) -> Iterator[Finding]:
    """Findings on collapse: RankMe, spread and dead dimensions of the features."""
    ranks = series(health, "rankme", warmup_epochs)
    last = health[-1] if health else {}
    rank = number(last, "rankme")
    if rank is None and "rankme" in last:
        yield Finding("bad", "Features are not numbers", "The encoder's output is not finite.")
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
        yield Finding("bad", f"Features collapse: {shown}", why)
    elif share < NARROW:
        yield Finding("watch", f"Features are narrow: {shown}", why)
    elif rank < peak / 2:
        yield Finding(
            "watch",
            f"Features are losing dimensions: {shown}, {peak:.0f} at best",
            "Less than half of the run's best RankMe.",
        )
    else:
        knn, chance = number(last, "knn"), number(last, "chance")
        at_chance = knn is not None and chance is not None and knn < chance + ABOVE
        yield Finding(
            "note",
            f"Features have not collapsed: {shown}",
            (f"Yet k-NN accuracy {knn:.0%} is chance ({chance:.0%}). " if at_chance else "")
            + "A high RankMe does not mean good features: noise has one, too. Only accuracies show "
            f"whether they separate classes, against chance and the untrained encoder. {why}",
        )
    if dead > 0.1:
        yield Finding(
            "bad" if dead > 0.5 else "watch",
            f"{dead:.0%} of the feature dimensions are dead",
            "They vary less than 1 % of 1/sqrt(width) over images; above 10 % is unusual.",
        )


def about_neighbours(health: Sequence[Row]) -> Iterator[Finding]:
    """Finding on k-NN accuracy against chance, the first measurement and the best so far."""
    found = series(health, "knn")
    chance = number(health[-1], "chance") if health else None
    if not found or chance is None:
        return
    caution = (
        "A quick indicator only: k-NN uses the features unscaled. Its trend matters, not its "
        "height."
    )
    now, best, first = found[-1], max(found), found[0]
    if now < chance + ABOVE:
        yield Finding("watch", f"k-NN accuracy {now:.0%} is chance ({chance:.0%})", caution)
    elif len(found) > 2 and now < 0.9 * best:
        yield Finding("watch", f"k-NN accuracy {now:.0%}, down from {best:.0%}", caution)
    elif len(found) == 1:
        yield Finding(
            "note",
            f"k-NN accuracy {now:.0%} (chance {chance:.0%})",
            f"The only measurement; encoders that are not trained are above chance, too. {caution}",
        )
    elif now < first + ABOVE:
        yield Finding(
            "watch",
            f"k-NN accuracy {now:.0%} (chance {chance:.0%}), {first:.0%} at first",
            f"Above chance, but training has added nothing to it. {caution}",
        )
    else:
        yield Finding(
            "good", f"k-NN accuracy {now:.0%} (chance {chance:.0%}), {first:.0%} at first", caution
        )
