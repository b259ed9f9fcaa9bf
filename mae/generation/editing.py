"""Measured edits of held-out images, beside trivial edits: a random direction, means of pixels."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae.base.hashing import Stream, fold
from mae.base.progress import ProgressLine
from mae.base.tensor_hashing import as_tensor, normals
from mae.data.images import Images
from mae.data.joined_manifests import select
from mae.data.labels import NO_LABEL
from mae.evaluation.features_file import FeatureSet
from mae.generation.attribute_probe import (
    AttributeProbe,
    accuracy,
    edit_findings,
    fit_probe,
    known_rows,
    moved,
)
from mae.generation.attributes import Attribute, Direction, attribute_direction
from mae.generation.distances import nearest_rows
from mae.generation.judges import FEATURE, Judge
from mae.generation.latents import LATENTS, LatentSpace
from mae.generation.real_images import (
    MOST_FITTED,
    Reading,
    encoded,
    random_subset,
    read_views,
)
from mae.networks.patches import unit_values

MOST_MEASURED = 1_000
"""maximum number of held-out images that are edited to measure the edit"""

HELD_OUT = 0.2
"""share of the labelled images that is held out where there are no others"""

EDIT, RANDOM, PIXELS = "edit", "random direction", "mean difference of pixels"


class LabelledImages(NamedTuple):
    """Labelled images for the direction and the probe, and held-out ones."""

    direction: Images
    held_out: Images


def held_out_fifth(images: Images, seed: int) -> LabelledImages:
    """Hold out a random fifth of each class, a function of `seed`."""
    labels = np.asarray(images.manifest.label)
    is_held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels != NO_LABEL]):
        rows = np.flatnonzero(labels == label)
        order = rows[np.argsort(fold(seed, Stream.STATISTICS, rows), kind="stable")]
        is_held_out[order[: int(HELD_OUT * len(rows))]] = True
    parts = np.flatnonzero(~is_held_out & (labels != NO_LABEL)), np.flatnonzero(is_held_out)
    first, second = (images.of(select(images.manifest, part)) for part in parts)
    return LabelledImages(first, second)


class Editor(NamedTuple):
    """Attribute vector of a latent space, with the probe that measures it."""

    space: LatentSpace
    attribute: Attribute
    direction: Direction
    probe: AttributeProbe
    judge: Judge
    real: FeatureSet
    """features of the judge of the labelled images"""

    def edited(self, latents: Tensor, strength: float) -> Tensor:
        """Images [m c h w] in [0, 1] from latents moved by `strength` attribute vectors."""
        return self.space.decode(latents + strength * self.direction.vector)

    def target_probability(self, images: Tensor) -> list[float]:
        """Probability of the attribute's class by the probe, of images in [0, 1]."""
        column = self.probe.column(self.attribute.target)
        return self.probe.probabilities(self.vectors(images))[:, column].tolist()

    def vectors(self, images: Tensor) -> np.ndarray:
        """Features of the judge of images in [0, 1], rounded to levels."""
        return self.judge.features(self.space.levels(images), self.space.device).numpy()


def fit_editor(
    space: LatentSpace, attribute: Attribute, judge: Judge, labelled: Images, reading: Reading
) -> Editor:
    """Attribute vector and probe from labelled images.  Raises UserError as their parts do."""
    latents = encoded(labelled, space.encoder(), reading)
    direction = attribute_direction(latents.vectors[LATENTS], latents.labels, attribute)
    real = encoded(labelled, judge.frozen(reading.config, reading.img_size), reading)
    probe = fit_probe(real.vectors[FEATURE], real.labels, attribute)
    return Editor(space, attribute, direction, probe, judge, real)


def measure_edit(
    editor: Editor,
    labelled: Images,
    held_out: Images,
    strengths: Sequence[float],
    reading: Reading,
    seed: int,
) -> dict[str, Any] | None:
    """Report of edits of held-out images without the attribute; None: there are none.

    Raises UserError where no held-out image is of a class that the probe knows.

    Each strength has a row of the edit and of the trivial edits of the same strength: a random
    direction of the same length in the latent space, and the same arithmetic with pixels.
    """
    attribute, space = editor.attribute, editor.space
    labels = np.asarray(held_out.manifest.label)
    lacking = np.flatnonzero(attribute.lacks(labels))
    if not len(lacking):
        return None
    known_rows(editor.probe, labels)  # before minutes of work
    real = encoded(held_out, editor.judge.frozen(reading.config, reading.img_size), reading)
    known = known_rows(editor.probe, real.labels)
    chosen = random_subset(held_out.of(select(held_out.manifest, lacking)), MOST_MEASURED, seed)
    originals = read_views(chosen, reading)
    pixels, latents = unit_values(originals), space.encode(originals)
    key = as_tensor(fold(seed, Stream.PANEL))
    noise = normals(key, space.numbers)[0]
    length = editor.direction.vector.norm()
    noise = noise * (length / noise.norm())
    shift = pixel_direction(labelled, attribute, reading, seed)
    among = editor.real.vectors[FEATURE][:]
    usual = float(np.median(nearest_rows(real.vectors[FEATURE][:], among).distances))
    base = space.decode(latents)
    before = {EDIT: editor.probe.probabilities(editor.vectors(base))}
    before[RANDOM] = before[EDIT]
    before[PIXELS] = editor.probe.probabilities(editor.vectors(pixels))
    rows: list[dict[str, Any]] = []
    findings: list[str] = []
    makers: dict[str, Callable[[float], Tensor]] = {
        EDIT: lambda strength: editor.edited(latents, strength),
        RANDOM: lambda strength: space.decode(latents + strength * noise),
        PIXELS: lambda strength: (pixels + strength * shift).clamp(0, 1),
    }
    show, done = ProgressLine("editing", "images", reading.log), 0
    total = len(strengths) * len(makers) * len(originals)
    show(done, total)
    for strength in strengths:
        found = {}
        for name, make in makers.items():
            vectors = editor.vectors(make(strength))
            done += len(originals)
            show(done, total)
            after = editor.probe.probabilities(vectors)
            row = moved(editor.probe, attribute, before[name], after, seed)
            near = float(np.median(nearest_rows(vectors, among).distances))
            found[name] = {**row, "nearest_real": near / usual if usual else None}
            rows.append({"strength": strength, "edit": name, **found[name]})
        findings += edit_findings(attribute, strength, found)
    return {
        "judge": editor.judge.name,
        "judge_sha256": editor.judge.sha256,
        "probe": accuracy(editor.probe, real.vectors[FEATURE][known], real.labels[known]),
        "rows": rows,
        "findings": findings,
    }


def pixel_direction(images: Images, attribute: Attribute, reading: Reading, seed: int) -> Tensor:
    """Mean image [c h w] with the attribute minus that without, of up to MOST_FITTED each."""
    means = []
    for rows in (attribute.has, attribute.lacks):
        numbers = np.flatnonzero(rows(np.asarray(images.manifest.label)))
        part = random_subset(images.of(select(images.manifest, numbers)), MOST_FITTED, seed)
        views = read_views(part, reading)
        means.append(views.double().mean(0) / torch.iinfo(views.dtype).max)
    return (means[0] - means[1]).float()


def edit_table(report: Any, attribute: Attribute) -> list[str]:
    """Lines that show a report of `measure_edit`."""
    probe, name = report["probe"], attribute.name(attribute.target)
    lines = [
        f"probe: logistic regression in features of: {report['judge']}; {probe['accuracy']:.1%} of "
        f"{probe['images']:,} held-out images right (always the commonest: "
        f"{probe['commonest']:.1%})",
        f"probability of {name}, on {report['rows'][0]['images']:,} held-out images:",
        f"{'strength':>8}  {'':26}{'before → after':>16}{'change (95 %)':>24}{'others':>9}"
        f"{'largest rise':>20}{'nearest real':>14}",
    ]
    for row in report["rows"]:
        low, high = (100 * end for end in row["change_interval"])
        change = f"{100 * row['change']:+.1f} ({low:.1f} to {high:.1f})"
        others = "–" if row["others"] is None else f"{100 * row['others']:.1f}"
        rise = row["largest_rise"]
        largest = "–" if rise is None else f"{100 * rise:+.1f} ({row['rising_class']})"
        shares = f"{row['before']:.1%} → {row['after']:.1%}"
        near = "–" if row["nearest_real"] is None else f"x {row['nearest_real']:.2f}"
        lines.append(
            f"{row['strength']:8g}  {row['edit']:26}{shares:>16}{change:>24}{others:>9}"
            f"{largest:>20}{near:>14}"
        )
    return lines
