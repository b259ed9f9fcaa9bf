"""`mae attentive`: attentive probe on frozen patch tokens."""

import argparse
from typing import Any

from mae.commands.argument_types import amount, positive
from mae.commands.options import PROBE_RUN, add_command, head_options

EPILOG = (
    "Measures how well all patch tokens together separate the classes: a learned query attends to "
    "them, a linear layer classifies the result. For MAE, whose class token was never trained to "
    "sum up an image, it is a better measure than a linear probe and far cheaper than fine-tuning. "
    "Learning rate and weight decay are chosen on a tenth of --train. Tokens are encoded once and "
    "cached in RUN/features (safe to delete); those written by `mae features --tokens` are used, "
    "too. The encoder stays frozen and in evaluation mode; --test is used once, at the end. "
    f"{PROBE_RUN.format(name='attentive')}"
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands, "attentive", "attentive probe on frozen patch tokens", run, EPILOG
    )
    head_options(parser, "labelled images")
    parser.add_argument(
        "--epochs",
        type=positive,
        help="epochs of each head (default: 20, or 2,500 steps' worth where --train is small)",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images per step")
    parser.add_argument(
        "--token-gb",
        type=amount,
        default=50.0,
        help="maximum size of cached tokens in GB; more are encoded anew in every epoch",
    )


def run(args: argparse.Namespace) -> int:
    """Train and test the head; the exit code."""
    from mae.commands.trained_head import train_head

    return train_head(args, "mae attentive", "attentive", "attentive", needs_tokens=True)
