"""Probe of an edit: how far it moves the probability of its class, and those of the others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mae.base.errors import UserError
from mae.base.hashing import fold
from mae.data.labels import NO_LABEL
from mae.evaluation.confidence import Interval, always_commonest, bootstrap, wilson
from mae.evaluation.probe import standardise
from mae.generation.attributes import Attribute, Labels
from mae.generation.distances import FeatureRows

STRENGTH = 0.1
"""scikit-learn's C on standardised features: strong enough for a few images of each class"""

ITERATIONS = 500

MOST = 10_000
"""maximum number of images that a probe is fitted to"""

OWN = 100
"""images of the edit's own classes that are among them, however rare, as far as there are any"""

Probabilities = npt.NDArray[np.float64]


class AttributeProbe(NamedTuple):
    """Logistic regression of the classes in the features of a judge, fitted to real images."""

    model: Any
    train: FeatureRows
    """[n d], that the features are standardised by"""

    @property
    def classes(self) -> Labels:
        """Classes in the order of the probabilities."""
        return self.model.classes_

    def column(self, label: int) -> int:
        """Place of a class among the probabilities."""
        return int(np.flatnonzero(self.classes == label)[0])

    def probabilities(self, vectors: FeatureRows) -> Probabilities:
        """Probability of each class, [m classes]."""
        return self.model.predict_proba(standardise(self.train, vectors.astype(np.float32))[1])


def probe_rows(labels: Labels, attribute: Attribute) -> npt.NDArray[np.int64]:
    """Rows of at most MOST labelled images [n], rising: all, or a random subset.

    Half of MOST is divided equally among the classes, so that rare ones are not left out: a class
    with fewer images than its part is there with all of them.
    """
    known = np.flatnonzero(labels != NO_LABEL)
    if len(known) <= MOST:
        return known
    keys, classes = fold(0, np.arange(len(known))), labels[known]
    ordered = np.lexsort((keys, classes))
    _, starts, counts = np.unique(classes[ordered], return_index=True, return_counts=True)
    place = np.empty(len(known), np.int64)
    place[ordered] = np.arange(len(known)) - np.repeat(starts, counts)
    part = MOST // (2 * len(counts))
    is_due = place < np.where(np.isin(classes, attribute.classes), max(part, OWN), part)
    return np.sort(known[np.lexsort((keys, ~is_due))[:MOST]])


def fit_probe(vectors: FeatureRows, labels: Labels, attribute: Attribute) -> AttributeProbe:
    """Fit to features [n d] of real images of at least two classes, those of `probe_rows`.

    Of `vectors`, which may be mapped from a file, only these rows are read.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second

    rows = probe_rows(labels, attribute)
    train = np.asarray(vectors[rows], np.float32)
    model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS)
    with threadpool_limits(1 if train.size < 10**6 else None):
        model.fit(standardise(train, train)[0], labels[rows])
    return AttributeProbe(model, train)


def known_rows(probe: AttributeProbe, labels: Labels) -> npt.NDArray[np.bool_]:
    """Rows [n] of classes that the probe knows.  Raises UserError where there are none."""
    known = np.isin(labels, probe.classes)
    if not known.any():
        raise UserError(
            "--test: no image is of a class of --direction, so nothing can be measured: their "
            "classes are compared by name (classes.txt), else by number"
        )
    return known


def accuracy(probe: AttributeProbe, vectors: FeatureRows, labels: Labels) -> dict[str, Any]:
    """Accuracy of a probe on held-out real images, beside always answering the commonest class."""
    right = probe.classes[probe.probabilities(vectors).argmax(1)] == labels
    share = float(right.mean())
    return {
        "images": len(labels),
        "accuracy": share,
        "interval": list(wilson(share, len(labels))),
        "commonest": always_commonest(labels).accuracy,
    }


class Others(NamedTuple):
    """Classes that an edit should leave alone."""

    columns: npt.NDArray[np.int64]
    """of the probabilities"""
    labels: Labels


def other_classes(probe: AttributeProbe, attribute: Attribute) -> Others:
    """Classes but the edit's own and the one that it replaces; none where there are but two."""
    if len(probe.classes) == 2:  # the other's probability is the complement
        return Others(np.empty(0, np.int64), probe.classes[:0])
    columns = np.flatnonzero(~np.isin(probe.classes, attribute.classes))
    return Others(columns, probe.classes[columns])


def moved(
    probe: AttributeProbe,
    attribute: Attribute,
    before: Probabilities,
    after: Probabilities,
    seed: int = 0,
) -> dict[str, Any]:
    """Changes of the probabilities [m classes] of images by an edit.

    `change`: of the edit's class, mean over the images.  `others`: mean over the other classes of
    the absolute value of their mean change; `largest_rise`: of the class that rises most.  `lead`:
    change of the edit's class minus that rise, with an interval: above 0, the edit moves its class
    more than any other.
    """
    column = probe.column(attribute.target)
    change = after - before
    own = lead = change[:, column]
    others = other_classes(probe, attribute)
    rise: dict[str, Any] = {"others": None, "largest_rise": None, "rising_class": None}
    if len(others.columns):
        means = change[:, others.columns].mean(0)
        most = int(means.argmax())
        lead = own - change[:, others.columns[most]]
        rise = {
            "others": float(np.abs(means).mean()),
            "largest_rise": float(means[most]),
            "rising_class": attribute.name(int(others.labels[most])),
        }
    return {
        "images": len(own),
        "before": float(before[:, column].mean()),
        "after": float(after[:, column].mean()),
        "change": float(own.mean()),
        "change_interval": list(_interval(own, seed)),
        "is_top_before": float((before.argmax(1) == column).mean()),
        "is_top_after": float((after.argmax(1) == column).mean()),
        **rise,
        "lead": float(lead.mean()),
        "lead_interval": list(_interval(lead, seed)),
    }


def _interval(values: npt.NDArray[np.float64], seed: int) -> Interval:
    if len(values) < 2:
        return Interval(-1, 1)
    return bootstrap(values[None], seed)


def edit_findings(
    attribute: Attribute, strength: float, rows: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Remarks on the rows of one strength: the edit first, then the baselines."""
    first, *baselines = rows
    own = rows[first]
    name, found = attribute.name(attribute.target), []
    if strength < 0:
        return []
    change, lead = _points(own["change"]), f"{_points(own['lead'])} more than"
    ends = " to ".join(_points(end) for end in own["lead_interval"])
    if own["others"] is None:
        found.append(f"strength {strength:g} moves {name} by {change} points ({ends})")
    elif own["lead_interval"][0] > 0:
        found.append(
            f"strength {strength:g} moves {name} by {change} points, the other classes by "
            f"{100 * own['others']:.1f} on average: {lead} the class that rises most, "
            f"{own['rising_class']} ({ends})"
        )
    else:
        found.append(
            f"strength {strength:g} does not move {name} more than others: by {change} points, "
            f"{lead} {own['rising_class']} ({ends})"
        )
    for baseline in baselines:
        other = rows[baseline]
        if other["lead"] > own["lead"]:
            far = ""
            if other["nearest_real"] is not None:
                far = (
                    f"; its images are {other['nearest_real']:.2f} times as far from real ones as "
                    f"those are from each other, the edit's {own['nearest_real']:.2f} times"
                )
            found.append(
                f"strength {strength:g}: the baseline {baseline} wins, with "
                f"{_points(other['lead'])}{far}"
            )
    return found


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
