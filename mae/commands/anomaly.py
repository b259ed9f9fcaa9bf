"""`mae anomaly`: detectors of anomalous images, fitted to normal ones."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.local_launch import processes_option
from mae.commands.argument_types import natural, positive, share
from mae.commands.options import (
    add_command,
    device_option,
    run_cache_options,
    seed_option,
    workers_option,
)

EPILOG = (
    "fit: statistics of patches of normal images; a threshold from further normal images, for a "
    "chosen false-alarm rate, without any anomaly. score: images by their scores, with heat maps. "
    "evaluate: separation, detection and false alarms on labelled images, beside baselines."
)
IMAGES = "shards, folders or image files"
FIT = (
    "Normal are the classes or folders named good, normal or ok (shards: by the classes.txt beside "
    "them; without such a name class 0); others in --normal or --calibration are refused. The "
    "threshold is conformal: a further normal image exceeds it with a probability of --alpha at "
    "most. The default features are the contrast of pixels: on the small set of docs/ANOMALIES.md "
    "they beat raw pixels and an MAE trained on it. Try others: `mae anomaly evaluate` prints raw "
    "pixels beside them."
)
EXPORT = (
    "The program takes decoded images of any size and gives score, label and map; resizing, "
    "features, scorer and threshold are inside. It is written only if a fresh process computes the "
    "scores and labels of real calibration images with it that the detector has."
)


def add_parser(commands: Any) -> None:
    """Add `mae anomaly` and its subcommands."""
    parser = add_command(
        commands, "anomaly", "find anomalous images, from normal ones alone", None, EPILOG
    )
    kinds = parser.add_subparsers(title="steps", required=True, metavar="STEP")

    _add_fit(kinds)
    _add_score(kinds)
    _add_evaluate(kinds)
    _add_export(kinds)
    for name, step in kinds.choices.items():
        step.set_defaults(command="anomaly", step=name)


def _add_fit(kinds: Any) -> None:
    fit = add_command(kinds, "fit", "fit a detector to normal images", run_fit, FIT)
    fit.add_argument("detector", type=Path, help="new folder")
    fit.add_argument("--normal", nargs="+", required=True, help=f"normal images; {IMAGES}")
    fit.add_argument("--calibration", nargs="+", required=True, help="further normal images")
    _normal_class_option(fit)
    fit.add_argument(
        "--features",
        default="contrast",
        metavar="RUN",
        help="contrast (of pixels, without exposure and shading), pixels (raw), or run, export, "
        "file of weights, timm:NAME of a Vision Transformer",
    )
    fit.add_argument(
        "--scorer",
        choices=("gaussian", "pca", "knn", "decoder", "reconstruction"),
        default="gaussian",
        help="gaussian: of each position, for aligned objects; pca, knn: of patches anywhere; "
        "decoder: trained to reproduce normal features; reconstruction: error of RUN's own",
    )
    tiles = fit.add_mutually_exclusive_group()
    tiles.add_argument(
        "--tiles", type=positive, help="tiles along each side, for defects of few pixels"
    )
    tiles.add_argument(
        "--tile-size", type=positive, metavar="PX", help="side of tiles, in pixels of the images"
    )
    _reference_option(fit)
    fit.add_argument(
        "--layers", type=positive, nargs="+", help="blocks of the encoder (default: 1/2 and 3/4)"
    )
    fit.add_argument("--alpha", type=share, default=0.05, help="false-alarm rate")
    fit.add_argument(
        "--channels", type=positive, help="channels of images, for pixels (default: their own)"
    )
    fit.add_argument(
        "--bits", type=int, choices=(8, 16), help="bits of images, for pixels (default: their own)"
    )
    fit.add_argument(
        "--max-bad", type=natural, default=0, help="images that may fail to decode, of each kind"
    )
    seed_option(fit)
    _reading_options(fit)


def _add_score(kinds: Any) -> None:
    score = add_command(kinds, "score", "score images, with heat maps", run_score)
    score.add_argument("detector", type=Path, help="folder of mae anomaly fit")
    score.add_argument("images", nargs="+", help=f"to score; {IMAGES}")
    score.add_argument(
        "--out", type=Path, required=True, help="NAME.json; NAME.csv and NAME.html go beside"
    )
    _reference_option(score)
    score.add_argument("--count", type=positive, default=24, help="images in the page")
    score.add_argument("--max-bad", type=natural, default=0, help="images that may fail to decode")
    _reading_options(score)


def _add_evaluate(kinds: Any) -> None:
    evaluate = add_command(kinds, "evaluate", "measure a detector on labelled images", run_evaluate)
    evaluate.add_argument("detector", type=Path, help="folder of mae anomaly fit")
    evaluate.add_argument("--test", nargs="+", required=True, help=f"labelled; {IMAGES}")
    _normal_class_option(evaluate)
    evaluate.add_argument("--out", type=Path, help="NAME.json (default: DETECTOR/evaluation.json)")
    _reference_option(evaluate)
    evaluate.add_argument("--count", type=positive, default=24, help="images in the page")
    evaluate.add_argument(
        "--max-bad", type=natural, default=0, help="images, and masks, that may fail to decode"
    )
    seed_option(evaluate, "random seed of the intervals")
    _reading_options(evaluate)


def _add_export(kinds: Any) -> None:
    export = add_command(
        kinds, "export", "write a detector as one program for other tools", run_export, EXPORT
    )
    export.add_argument("detector", type=Path, help="folder of mae anomaly fit")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument(
        "--format", choices=("onnx", "torch"), default="onnx", help="torch: of torch.export"
    )
    export.add_argument(
        "--calibration", nargs="+", help="the images given to fit (default: where they were then)"
    )
    run_cache_options(export)


def _normal_class_option(parser: Any) -> None:
    parser.add_argument(
        "--normal-class",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classes, or folders, of normal images (default: good, normal, ok; in evaluate those "
        "of fit; where there are none of them class 0)",
    )


def _reference_option(parser: Any) -> None:
    parser.add_argument(
        "--reference",
        nargs="+",
        metavar="SOURCE",
        help="defect-free templates that images are compared with: one image file for all; shards "
        "or folders with one of the same key each; or the word pairs, for KEY.ref.png beside them",
    )


def _reading_options(parser: Any) -> None:
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)
    processes_option(parser)


def run_fit(args: argparse.Namespace) -> None:
    """Fit and calibrate; print the threshold, and how reliable its false-alarm rate is."""
    from mae.commands.anomaly_fit import fit_command

    fit_command(args)


def run_score(args: argparse.Namespace) -> None:
    """Score images; write the JSON file and the page; print the largest scores."""
    from mae.commands.anomaly_reports import score_command

    score_command(args)


def run_evaluate(args: argparse.Namespace) -> None:
    """Evaluate on labelled images; write the JSON file and the page; print the table."""
    from mae.commands.anomaly_reports import evaluate_command

    evaluate_command(args)


def run_export(args: argparse.Namespace) -> None:
    """Write a detector as a program; print the code that loads it."""
    from mae.commands.anomaly_export import export_command

    export_command(args)
