"""`mae knn`: k-NN classification on frozen features."""

import argparse
from typing import Any

from mae.commands.argument_types import amount, positive
from mae.commands.options import CACHED, add_command, feature_options

EPILOG = (
    "Measures the accuracy of a vote among the k nearest training images (cosine similarity, "
    "weighted as in DINO). Nothing is fitted. For MAE it is a quick indicator only: its features "
    f"are meant to be fine-tuned. {CACHED}"
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "knn", "k-NN accuracy of frozen features: a quick signal", run, EPILOG
    )
    feature_options(parser)
    parser.add_argument("--k", type=positive, default=20, help="neighbours that vote")
    parser.add_argument(
        "--temperature", type=amount, default=0.07, help="temperature of the votes' weights"
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate; write the JSON file, print the table."""
    from mae.commands.frozen_encoders import finish_features, open_features
    from mae.evaluation.knn import knn_report

    compared = open_features(args)
    report = knn_report(compared.subjects, k=args.k, temperature=args.temperature, seed=args.seed)
    finish_features(args, compared, report)
    print(report["measures"])
