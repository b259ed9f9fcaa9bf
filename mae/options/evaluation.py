"""Options of the commands that measure features and classifiers."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import usable_cores
from mae.options.parsing import amount, command, device_option, natural, positive
from mae.options.trained_probes import OUT, mae_protocol_options

SHARDS = "tars: paths, addresses, brace patterns, globs"
CACHED = (
    "Features are encoded once and kept in RUN/features (delete it freely), where knn, probe, "
    "fewshot and attentive find them; for an export, in EXPORT-evaluations/features beside it, or "
    "beside --out. Without RUN, --train and --test are files that `mae features` wrote."
)


def add_evaluation_commands(commands: Any) -> None:
    """`mae features`, `knn`, `probe`, `fewshot`, `evaluate`."""
    features = command(
        commands, "evaluation", "features", "write frozen features of shards to a file"
    )
    features.epilog = (
        "Writes float16 vectors per image (`mean` of the patch tokens, `cls` where the encoder has "
        "a class token, `tokens` if asked for), labels (-1: none) and names to one safetensors "
        "file. Images that do not decode have no row and are named; more than data.max_bad of them "
        "end it. What lies in RUN/features already is copied; a file written there serves knn, "
        "probe and fewshot, with --tokens attentive too."
    )
    features.add_argument("run", type=Path, help="run folder, or an export for timm")
    features.add_argument("shards", nargs="+", help=f"labelled or not; {SHARDS}")
    features.add_argument("--out", type=Path, required=True, help="new file, .safetensors")
    features.add_argument("--tokens", action="store_true", help="all patch tokens, too")
    _encoding_options(features)

    knn = command(commands, "evaluation", "knn", "k-NN on frozen features: a smoke signal")
    knn.epilog = (
        "Measures the share of test images whose class their k nearest training images (cosine "
        "similarity, weighted as in DINO) vote for. Nothing is fitted. A smoke signal for MAE, not "
        f"a verdict: its features are meant to be fine-tuned. {CACHED}"
    )
    evaluation_options(knn)
    knn.add_argument("--k", type=positive, default=20, help="neighbours that vote")
    knn.add_argument("--temperature", type=amount, default=0.07, help="of their weights")

    probe = command(
        commands, "evaluation", "probe", "linear probe on frozen features of labelled shards"
    )
    probe.epilog = (
        "Measures how well classes can be told apart by planes in the frozen, standardised "
        "features: logistic regression, its penalty chosen on slices of --train (a tenth from "
        f"10,000 labels on), --test used once per split. {CACHED}"
    )
    evaluation_options(probe)
    probe.add_argument(
        "--per-class", type=positive, nargs="*", default=[], help="also with so few labels"
    )
    _splits_option(probe)
    mae_protocol_options(probe)

    fewshot = command(
        commands, "evaluation", "fewshot", "linear probe on few labels: n per class, or per cent"
    )
    fewshot.epilog = (
        "Measures what the frozen features are worth where labels are dear: mean and deviation of "
        f"a linear probe over several random draws of few labels. {CACHED}"
    )
    evaluation_options(fewshot)
    fewshot.add_argument(
        "--percent", type=part_of_100, nargs="*", default=[1, 10], help="of the labels of a class"
    )
    fewshot.add_argument(
        "--shots", type=positive, nargs="*", default=[1, 5, 10], help="labels per class"
    )
    _splits_option(fewshot)
    _add_evaluate(commands)


def _add_evaluate(commands: Any) -> None:
    measured = command(
        commands,
        "evaluate",
        "evaluate",
        "accuracy of a fine-tuned classifier on labelled shards, overall and class by class",
    )
    measured.add_argument(
        "run", type=Path, help="run folder of `mae finetune`, or a checkpoint in it"
    )
    measured.add_argument("--test", nargs="+", required=True, help="labelled shards")
    measured.add_argument(
        "--out",
        type=Path,
        help="JSON file, with the confusion matrix beside it as a PNG "
        "(RUN/evaluation.json if unset)",
    )
    measured.add_argument(
        "--beside", type=Path, metavar="RUN", help="another run, compared on the same images"
    )
    measured.add_argument(
        "--workers", type=natural, default=usable_cores(), help="decoding processes"
    )
    device_option(measured)


def evaluation_options(parser: argparse.ArgumentParser) -> None:
    """What all evaluations of frozen features take."""
    parser.add_argument("run", type=Path, nargs="?", help="run folder, or an export for timm")
    parser.add_argument("--train", nargs="+", required=True, help="labelled shards to learn from")
    parser.add_argument("--test", nargs="+", required=True, help="labelled shards to test on")
    parser.add_argument(
        "--classes", type=positive, help="check that the labels are 0 to one less than this"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="the same for the untrained encoder and pixels, and the difference to them",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of all that is drawn")
    parser.add_argument("--out", type=Path, help=OUT)
    _encoding_options(parser)


def part_of_100(text: str) -> float:
    """Above 0, up to 100."""
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 100]")
    return value


def _encoding_options(parser: argparse.ArgumentParser) -> None:
    device_option(parser)
    parser.add_argument("--workers", type=natural, default=0, help="decoding processes")
    parser.add_argument("--batch-size", type=positive, help="images encoded at once (256 if unset)")


def _splits_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--splits",
        type=positive,
        help="repetitions, each meeting the test set once (5 if unset)",
    )
