"""`mae fewshot`: linear probe on few labels."""

import argparse
from typing import Any

from mae.commands.argument_types import percentage, positive
from mae.commands.options import CACHED, SPLITS, add_command, feature_options, splits_option

EPILOG = (
    "Measures frozen features where labels are scarce: mean and deviation of a linear probe over "
    f"several random draws of few labels. {CACHED}"
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "fewshot", "linear probe on few labels, by number or per cent", run, EPILOG
    )
    feature_options(parser)
    parser.add_argument(
        "--percent",
        type=percentage,
        nargs="*",
        default=[1, 10],
        help="percentages of each class's labels to train on",
    )
    parser.add_argument(
        "--shots",
        type=positive,
        nargs="*",
        default=[1, 5, 10],
        help="numbers of labels per class to train on",
    )
    splits_option(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate; write the JSON file, print the table."""
    from mae.base.errors import UserError
    from mae.commands.frozen_encoders import finish_features, open_features
    from mae.evaluation.probe_report import fewshot_report

    if not args.shots and not args.percent:
        raise UserError("--shots, --percent: give at least one of them")
    compared = open_features(args)
    report = fewshot_report(
        compared.subjects,
        shots=args.shots,
        percents=args.percent,
        splits=args.splits or SPLITS,
        seed=args.seed,
    )
    finish_features(args, compared, report)
