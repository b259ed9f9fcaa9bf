"""`mae probe`: linear probe on frozen features, by a fast protocol or the MAE paper's."""

import argparse
from typing import Any

from mae.commands.argument_types import amount, positive
from mae.commands.options import (
    CACHED,
    PROBE_RUN,
    SPLITS,
    add_command,
    feature_options,
    splits_option,
)

EPILOG = (
    "Measures how well hyperplanes in the frozen, standardised features separate the classes: "
    "logistic regression. Its penalty is chosen by cross-validation on --train (a tenth of it from "
    f"10,000 labels on); --test is used once per split. {CACHED}"
)
PAPER = (
    "Linear classifier behind a BatchNorm on the frozen class token, as in the MAE paper (He et "
    "al. 2021, appendix A.1). The last epoch is tested; nothing is chosen. --baselines adds the "
    f"untrained encoder, but not pixels. {PROBE_RUN.format(name='probe-mae')}"
)
ONLY = {
    "fast": ("per_class", "splits", "batch_size"),
    "mae": ("epochs", "step_batch", "blr", "warmup_epochs", "device_batch"),
}
"""options that belong to one of the protocols; unset: None, or empty"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "probe", "linear probe on frozen features", run, EPILOG)
    feature_options(parser)
    parser.add_argument(
        "--per-class",
        type=positive,
        nargs="*",
        default=[],
        help="numbers of labels per class to train on, besides all",
    )
    splits_option(parser)
    parser.add_argument(
        "--protocol",
        choices=["fast", "mae"],
        default="fast",
        help="fast: cached features; mae: the MAE paper's (LARS, new crops each epoch: hours on "
        "ImageNet; the same command resumes it)",
    )
    group = parser.add_argument_group("--protocol mae", PAPER)
    group.add_argument("--epochs", type=amount, help="default: 90, as in the paper (50: ViT-L, H)")
    group.add_argument(
        "--step-batch",
        type=positive,
        help="images per LARS step (default: 16384, or fewer where --train is small)",
    )
    group.add_argument("--blr", type=amount, help="learning rate per 256 images (default: 0.1)")
    group.add_argument(
        "--warmup-epochs",
        type=amount,
        help="epochs of linear warm-up (default: 10, or a ninth of --epochs below 90)",
    )
    group.add_argument(
        "--device-batch",
        type=positive,
        help="maximum number of images at a time, normalised together by BatchNorm, in equal "
        "parts of a step (default: 512)",
    )


def run(args: argparse.Namespace) -> int | None:
    """Evaluate by the protocol; write the JSON file, print the table."""
    from mae.base.errors import UserError

    for protocol, names in ONLY.items():
        for name in names if protocol != args.protocol else ():
            if getattr(args, name) not in (None, []):
                raise UserError(f"--{name.replace('_', '-')}: only for --protocol {protocol}")
    if args.protocol == "fast":
        return _run_fast(args)
    if args.run is None:
        raise UserError("--protocol mae: needs RUN, as every epoch encodes new crops")

    from mae.commands.trained_head import train_head

    return train_head(args, "mae probe", "probe, protocol mae", "probe-mae", needs_tokens=False)


def _run_fast(args: argparse.Namespace) -> None:
    from mae.commands.frozen_encoders import finish_features, open_features
    from mae.evaluation.probe_report import probe_report

    compared = open_features(args)
    report = probe_report(
        compared.subjects,
        budgets=(None, *args.per_class),
        splits=args.splits or SPLITS,
        seed=args.seed,
    )
    finish_features(args, compared, report)
