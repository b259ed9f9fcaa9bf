"""Scores and evaluation of a detector: images of shards, JSON file, page, table."""

import argparse
from typing import Any

import numpy as np

from mae.anomaly.defect_masks import find_masks
from mae.anomaly.detector import MAIN, read_detector
from mae.anomaly.findings import drift, drift_lines
from mae.anomaly.fitting import scores_of
from mae.anomaly.inputs import identity
from mae.anomaly.localisation import localisation_row
from mae.anomaly.metrics import member_row, words
from mae.anomaly.sources import open_members
from mae.anomaly.threshold import Threshold, p_values
from mae.base.device import choose_device, loader_count
from mae.base.divided_work import divided_work
from mae.base.errors import UserError
from mae.base.files import write_json
from mae.base.output import print_error
from mae.base.portion import Portion, launched_portion
from mae.base.printable import printable
from mae.commands.anomaly_data import bad_words, check_bad, open_data, references_of
from mae.commands.anomaly_findings import OWN, own_copies, own_copies_lines
from mae.commands.anomaly_tables import Detected, member_table, size_table, write_csv, write_page
from mae.data.normal_classes import CLASS_0, normal_classes
from mae.data.required_labels import require_labels
from mae.evaluation.results import aligned

SHOWN = 10
"""largest scores that are printed"""


def detect(
    args: argparse.Namespace,
    patterns: list[str],
    key: str,
    portion: Portion,
    *,
    is_labelled: bool = False,
) -> Detected:
    """Scores of images by all members of a detector; divided among processes.

    `is_labelled`: their classes are read, and masks of defects where there are any.
    """
    if args.out and args.out.suffix != ".json":
        raise UserError(f"--out: {args.out} must end in .json: the page goes beside it")
    log, device = portion.log, choose_device(args.device)
    stored = read_detector(args.detector)
    settings = stored.settings
    members = open_members(args.detector, stored, device)
    references = references_of(args, settings.get("reference"))
    chosen = (args.normal_class or settings.get("normal_class", [])) if is_labelled else []
    images = portion.first_before_others(
        lambda: open_data(
            patterns,
            key,
            args,
            settings["channels"],
            settings["bits"],
            references,
            with_classes=is_labelled,
            normal=chosen,
        )
    )
    normal = normal_classes(images.manifest, chosen, key) if is_labelled else CLASS_0
    out = args.out or args.detector / "evaluation.json"
    masks = find_masks(images, key, portion, normal) if is_labelled else None
    plan = f"{settings} {identity(images)} {masks.sha256 if masks else ''}"
    if normal != CLASS_0:
        plan += f" {normal.numbers}"
    with divided_work(out, plan, portion, log) as work:
        scored = scores_of(
            work,
            "scores",
            images,
            members,
            device=device,
            workers=loader_count(args.workers),
            log=log,
            masks=masks,
        )
        if portion.joins:
            check_bad(scored, images, args.max_bad)
    portion.leave_to_first()
    for reason in scored.bad:
        log(f"skipped: {reason}")
    for reason in scored.bad_masks:
        log(f"mask not read: {reason}")
    threshold = Threshold(**settings["threshold"])
    return Detected(stored, members, images, scored, threshold, masks, normal)


def score_command(args: argparse.Namespace) -> None:
    """Work of `mae anomaly score`."""
    found = detect(args, args.images, "images", launched_portion())
    scores, count = found.scored.scores[MAIN], len(found.scored.samples)
    chances = p_values(scores, found.of_calibration(MAIN))
    names = [found.images.manifest.name(number) for number in found.scored.samples.tolist()]
    flags = scores > found.threshold.value
    order = np.argsort(-scores, kind="stable").tolist()
    rows = [
        {
            "image": names[i],
            "score": float(scores[i]),
            "p": float(chances[i]),
            "is_anomalous": bool(flags[i]),
        }
        for i in order
    ]
    change = drift(scores, found.of_calibration(MAIN), found.threshold)
    copies = own_copies(found.stored, found.images, found.scored)
    remedy = "do not rely on these"
    notes = own_copies_lines(copies, found.images, found.scored, "images", remedy)
    notes += drift_lines(change, count)
    report = {
        "command": "anomaly score",
        "detector": str(args.detector),
        "threshold": found.threshold._asdict(),
        "anomalous": int(flags.sum()),
        "drift": change.record(),
        "notes": notes,
        "images": rows,
        "skipped": found.scored.bad,
    }
    write_json(args.out, report)
    table = args.out.with_suffix(".csv")
    write_csv(table, rows)
    page = write_page(found, args.out, args.count, f"{args.detector}: largest scores")
    shown = [["score", "p", "image"]]
    for row in rows[:SHOWN]:
        mark = " *" * row["is_anomalous"]
        shown.append([f"{row['score']:.4g}{mark}", f"{row['p']:.3g}", printable(row["image"])])
    print("\n".join(aligned(shown)))
    print(
        f"{int(flags.sum()):,} of {count:,} images above the threshold "
        f"{found.threshold.value:.4g} (*){bad_words(found.scored)}; of normal ones "
        f"{found.threshold.alpha:.0%} at most are expected to be"
    )
    print(change.line)
    for note in notes:
        print_error(f"warning: {note}")
    print(f"details in {args.out}, {table} and {page}")


def evaluate_command(args: argparse.Namespace) -> None:
    """Work of `mae anomaly evaluate`."""
    found = detect(args, args.test, "--test", launched_portion(), is_labelled=True)
    labels = require_labels(found.images.manifest, "--test")[found.scored.samples]
    copies = own_copies(found.stored, found.images, found.scored)
    everything = np.ones(len(labels), bool)
    anomalous = ~found.normal.of(labels)
    rows = measures(found, anomalous, everything, args.seed)
    remedy = "rely on the figures without them"
    notes = own_copies_lines(copies, found.images, found.scored, "--test", remedy)
    notes += words(rows, MAIN)
    report: dict[str, Any] = {
        "command": "anomaly evaluate",
        "detector": str(args.detector),
        "test_images": len(labels),
        "data": found.images.manifest.fingerprint,
        "alpha": found.threshold.alpha,
        "normal_classes": [found.normal.name(number) for number in found.normal.numbers],
        "results": rows,
        "notes": notes,
        "skipped": found.scored.bad,
        "masks_not_read": found.scored.bad_masks,
    }
    print(found.normal.line())
    print("\n".join(aligned(member_table(rows))))
    if copies is not None and copies.flags.any() and not copies.flags.all():
        report["without_copies"] = measures(found, anomalous, ~copies.flags, args.seed)
        print(f"without the {int(copies.flags.sum()):,} copies of {OWN}:")
        print("\n".join(aligned(member_table(report["without_copies"]))))
    if (sizes := rows[MAIN].get("by_size")) and found.masks:
        missing = f"; {found.masks.missing:,} have no mask" if found.masks.missing else ""
        print(f"defects by area, of the detector{missing}:")
        print("\n".join(aligned(size_table(sizes))))
    out = args.out or args.detector / "evaluation.json"
    write_json(out, report)
    page = write_page(found, out, args.count, f"{args.detector}: largest scores", labels)
    for note in notes:
        print(f"note: {note}")
    print(f"{len(labels):,} test images{bad_words(found.scored)}; details in {out} and {page}")


def measures(
    found: Detected, anomalous: np.ndarray, kept: np.ndarray, seed: int
) -> dict[str, dict[str, Any]]:
    """Row of each member for the `kept` images."""
    rows = {}
    samples = found.scored.samples[kept]
    for name, member in found.members.items():
        scores, calibration = found.scored.scores[name][kept], found.of_calibration(name)
        row = member_row(
            member.about, scores, calibration, anomalous[kept], found.threshold.alpha, seed
        )
        counts = found.scored.pixels.get(name)
        if counts is not None and np.isin(counts["region"][:, 0], samples).any():
            flags = dict(zip(samples.tolist(), scores > row["threshold"], strict=True))
            row |= localisation_row(counts, flags, seed, by_size=name == MAIN)
        rows[name] = row
    return rows
