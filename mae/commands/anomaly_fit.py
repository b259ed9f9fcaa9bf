"""Fit of a detector: features, images, written folder, printed threshold."""

import argparse
import shutil
from pathlib import Path

from mae.anomaly.fitting import FitRequest, fit_detector
from mae.anomaly.inputs import is_single, recorded_references
from mae.anomaly.sources import OF_PIXELS, Choice, Source, open_source
from mae.anomaly.tiles import Tiling
from mae.base.device import choose_device, loader_count
from mae.base.portion import Portion, launched_portion
from mae.commands.anomaly_data import check_normal, chosen_kind, open_data, refuse_shared
from mae.commands.anomaly_findings import fit_findings
from mae.data.images import Images


def fit_command(args: argparse.Namespace) -> None:
    """Work of `mae anomaly fit`."""
    portion = launched_portion()
    log, device = portion.log, choose_device(args.device)
    references = args.reference or []
    channels, bits = 3, 8
    if args.features in OF_PIXELS:  # an encoder has its own
        channels, bits = portion.first_before_others(lambda: chosen_kind(args))
    source = open_source(_choice(args, channels, bits), device)
    for line in source.lines:
        log(f"weights {line}")
    normal, calibration, class_lines = _open_normal(args, source, portion)
    recorded = recorded_references(references)

    def write_further(folder: Path) -> None:
        source.write_encoder(folder)
        if recorded and is_single(references):
            shutil.copyfile(references[0], folder / recorded)

    fitted = fit_detector(
        args.detector,
        FitRequest(
            members=source.members,
            normal=normal,
            calibration=calibration,
            alpha=args.alpha,
            seed=args.seed,
            max_bad=args.max_bad,
            settings={
                **source.settings,
                "reference": recorded,
                **({"normal_class": args.normal_class} if args.normal_class else {}),
                "normal": normal.manifest.fingerprint,
                "calibration": calibration.manifest.fingerprint,
                "calibration_shards": args.calibration,
            },
            device=device,
            workers=loader_count(args.workers),
            portion=portion,
            log=log,
        ),
        write_further,
    )
    portion.leave_to_first()
    assert fitted is not None
    for line in fit_findings(fitted, normal, calibration):
        log(f"warning: {line}")
    print(f"images read as {source.channels} x {source.bits} bits")
    print("".join(f"{line}\n" for line in class_lines), end="")
    low, high = fitted.threshold.rate_range()
    print(f"threshold  {fitted.threshold.value:.6g}")
    print(
        f"false alarms  {args.alpha:.1%} at most on average; detectors calibrated on "
        f"{fitted.threshold.calibration:,} images have {low:.1%} to {high:.1%} (95 %)"
    )
    print(args.detector)


def _choice(args: argparse.Namespace, channels: int, bits: int) -> Choice:
    tiling = Tiling(args.tiles or 0, args.tile_size or 0)
    return Choice(
        source=args.features,
        scorer=args.scorer,
        channels=channels,
        bits=bits,
        layers=args.layers,
        tiling=tiling if any(tiling) else None,
        is_paired=bool(args.reference),
    )


def _open_normal(
    args: argparse.Namespace, source: Source, portion: Portion
) -> tuple[Images, Images, list[str]]:
    """Normal images, others of the calibration, and lines on their classes."""
    normal, calibration = portion.first_before_others(
        lambda: [
            open_data(
                patterns,
                key,
                args,
                source.channels,
                source.bits,
                args.reference or [],
                with_classes=True,
                normal=args.normal_class,
            )
            for key, patterns in (("--normal", args.normal), ("--calibration", args.calibration))
        ]
    )
    lines = [
        check_normal(images, key, args.normal_class)
        for images, key in ((normal, "--normal"), (calibration, "--calibration"))
    ]
    refuse_shared(normal, calibration)
    return normal, calibration, list(dict.fromkeys(filter(None, lines)))
