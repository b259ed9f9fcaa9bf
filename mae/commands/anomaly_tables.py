"""Tables, CSV file and page of `mae anomaly score` and `evaluate`."""

import csv
import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mae.anomaly.defect_masks import DefectMasks
from mae.anomaly.detector import MAIN, Member, Stored
from mae.anomaly.images import Scored
from mae.anomaly.pixel_maps import image_map
from mae.anomaly.threshold import Threshold, p_values
from mae.base.errors import SampleError
from mae.base.files import new_file
from mae.base.printable import printable
from mae.base.redaction import shown
from mae.data.images import Images
from mae.data.normal_classes import CLASS_0, NormalClasses
from mae.pictures.anomalies import Suspect, gallery
from mae.pictures.html import write_document


class Detected(NamedTuple):
    """A detector, and its scores of some images."""

    stored: Stored
    members: dict[str, Member]
    images: Images
    scored: Scored
    threshold: Threshold
    masks: DefectMasks | None
    normal: NormalClasses = CLASS_0

    def of_calibration(self, name: str) -> np.ndarray:
        """Calibration scores of a member."""
        return self.stored.calibration[name].numpy()


def member_table(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the members: separation, decisions, and localisation where there are masks."""
    lines = [["", "AUROC", "95 %", "detected", "95 %", "false alarms", "95 %"]]
    has_masks = any("aupro" in row for row in rows.values())
    lines[0] += ["AUPRO", "95 %", "pixel AUROC", "95 %"] * has_masks
    for name, row in rows.items():
        cells = _curve(row, "auroc", "interval")
        for count, total, interval in (
            ("detected", "anomalous", "detection_interval"),
            ("false_alarms", "normal", "false_alarm_interval"),
        ):
            share = f"{row[count] / row[total]:.1%}" if row[total] else "–"
            cells += [f"{share} ({row[count]})", _percents(row[interval])]
        if has_masks:
            cells += _curve(row, "aupro", "aupro_interval")
            cells += _curve(row, "pixel_auroc", "pixel_auroc_interval")
        own = row["member"] if name != MAIN else f"{row['member']} (detector)"
        lines.append([own, *cells])
    return lines


def size_table(sizes: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the terciles of the defects' areas."""
    lines = [["", "area", "regions", "AUPRO", "95 %", "images", "detected", "95 %"]]
    for name, row in sizes.items():
        low, high = row["area"]
        lines.append(
            [
                name,
                f"{low:.2%}–{high:.2%}",
                f"{row['regions']:,}",
                *_curve(row, "aupro", "interval"),
                f"{row['images']:,}",
                f"{row['detected'] / row['images']:.1%}" if row["images"] else "–",
                _percents(row["detection_interval"]),
            ]
        )
    return lines


def _curve(row: Mapping[str, Any], value: str, interval: str) -> list[str]:
    if value not in row:
        return ["–", ""]
    return [f"{row[value]:.3f}", "–".join(f"{x:.3f}" for x in row[interval])]


def _percents(interval: Sequence[float]) -> str:
    return "–".join(f"{x:.1%}" for x in interval)


def write_csv(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; addresses lose their secrets, text stays text."""
    with new_file(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "image": _plain(shown(row["image"]))})


def _plain(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def write_page(
    found: Detected, out: Path, count: int, title: str, labels: np.ndarray | None = None
) -> Path:
    """Page of the images with the largest scores, their heat maps computed again."""
    scores, member = found.scored.scores[MAIN], found.members[MAIN]
    chances = p_values(scores, found.of_calibration(MAIN))
    largest = heapq.nlargest(count, range(len(scores)), key=lambda i: scores[i])
    suspects = []
    device = next(iter(member.parameters.values())).device
    rule = member.features.rule
    for i in largest:
        number = int(found.scored.samples[i])
        image = found.images[number]
        size = image.shape[-2], image.shape[-1]
        view = rule.view(image)[None].to(device)
        maps = member.maps(view)[0].cpu()
        suspects.append(
            Suspect(
                found.images.manifest.name(number),
                image[: found.images.channels],
                image_map(maps, rule, (view.shape[-2], view.shape[-1]), size),
                float(scores[i]),
                float(chances[i]),
                bool(scores[i] > found.threshold.value),
                "" if labels is None else _class_word(found.normal, int(labels[i])),
                _mask(found, number, size),
            )
        )
    top = float(torch.stack([one.map.max() for one in suspects]).median())
    notes = [
        f"Threshold {found.threshold.value:.4g}: {found.threshold.alpha:.0%} of normal images at "
        f"most are above it on average. {member.about}.",
        f"{len(suspects):,} of {len(scores):,} images, the largest scores first. p: share of "
        "normal images with as large a score. Click or press space to enlarge.",
    ]
    if found.masks is not None:
        notes.append("Green: outline of the known defects.")
    page = out.with_suffix(".html")
    write_document(gallery(suspects, top, title, notes), page)
    return page


def _class_word(normal: NormalClasses, label: int) -> str:
    return "normal" if label in normal.numbers else printable(normal.name(label))


def _mask(found: Detected, number: int, size: tuple[int, int]) -> torch.Tensor | None:
    if found.masks is None:
        return None
    try:
        mask = found.masks.of(number, size)
    except SampleError:
        return None
    return None if mask is None else torch.from_numpy(mask)
