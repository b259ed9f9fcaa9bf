"""Options of the evaluations that train a head on a frozen encoder."""

import argparse
from pathlib import Path
from typing import Any

from mae.options.parsing import amount, command, device_option, natural, positive

OUT = (
    "JSON file (if unset RUN/COMMAND.json; nothing is put into an export, but into "
    "EXPORT-evaluations beside it)"
)
ENCODER = "The encoder stays frozen and in evaluation mode; --test is used once, at the end."

RUNS = (
    "It is trained as a run in RUN/{name}: the same command continues it, and accelerate launch "
    "-m mae … trains it on several processes."
)


def add_trained_probe_commands(commands: Any) -> None:
    """`mae attentive`, `segment`."""
    attentive = command(
        commands, "trained_probes", "attentive", "attentive probe on frozen patch tokens"
    )
    attentive.epilog = (
        "Measures how well classes can be told apart by what all patch tokens hold together: a "
        "learned query attends to them, a linear layer classifies what it gathers. For MAE, whose "
        "class token was never trained to sum an image up, it tells more than a linear probe and "
        "costs far less than fine-tuning. Learning rate and weight decay are chosen on a tenth of "
        "--train. Tokens are encoded once and kept in RUN/features (delete it freely); what `mae "
        f"features --tokens` wrote there is used too. {ENCODER} {RUNS.format(name='attentive')}"
    )
    _frozen_options(attentive, "labelled shards")
    attentive.add_argument(
        "--epochs",
        type=positive,
        help="of each head (if unset 20, or as many as 2,500 steps take where --train is small)",
    )
    attentive.add_argument("--batch-size", type=positive, default=256, help="images of a step")
    attentive.add_argument(
        "--token-gb",
        type=amount,
        default=50.0,
        help="kept on disk at most; more tokens are encoded anew in every epoch",
    )

    segment = command(
        commands, "trained_probes", "segment", "which class frozen patch tokens say of each pixel"
    )
    segment.epilog = (
        "Measures what single patch tokens know of what lies where: a linear classifier and k-NN "
        "on frozen tokens, mean IoU and pixel accuracy at patch resolution and interpolated to "
        "pixels. The shards hold a mask beside each image, KEY.mask.png or KEY.seg.png of the "
        "image's size: the class as gray value or palette number, 255 where there is none. The "
        "penalty is chosen on a tenth of --train. No decoder is trained, so its numbers lie below "
        f"those of segmentation models. {ENCODER}"
    )
    _frozen_options(segment, "shards with masks")
    segment.add_argument(
        "--patches", type=positive, default=50_000, help="training patches, from all images alike"
    )


def mae_protocol_options(probe: argparse.ArgumentParser) -> None:
    """`mae probe --protocol mae`."""
    probe.add_argument(
        "--protocol",
        choices=["fast", "mae"],
        default="fast",
        help="fast: cached features; mae: the MAE paper's (LARS, new crops each epoch: hours on "
        "ImageNet; the same command continues it)",
    )
    group = probe.add_argument_group(
        "--protocol mae",
        "A linear classifier behind a BatchNorm on the frozen class token, as the MAE paper's "
        "numbers are made; the last epoch is tested, nothing is chosen. --baselines: the untrained "
        f"encoder, without pixels. {RUNS.format(name='probe-mae')}",
    )
    group.add_argument("--epochs", type=amount, help="90 if unset, as in the paper (50: ViT-L, H)")
    group.add_argument(
        "--step-batch",
        type=positive,
        help="images of a LARS step (16384, or fewer where --train is small, if unset)",
    )
    group.add_argument("--blr", type=amount, help="learning rate per 256 images (0.1 if unset)")
    group.add_argument(
        "--warmup-epochs",
        type=amount,
        help="of linear warm-up (if unset 10, or a ninth of fewer --epochs than 90)",
    )
    group.add_argument(
        "--device-batch",
        type=positive,
        help="images at a time, which BatchNorm normalises together: at most, in equal parts of a "
        "step (512 if unset)",
    )


def _frozen_options(parser: argparse.ArgumentParser, shards: str) -> None:
    parser.add_argument("run", type=Path, help="run folder, or an export for timm")
    parser.add_argument("--train", nargs="+", required=True, help=f"{shards} to learn from")
    parser.add_argument("--test", nargs="+", required=True, help=f"{shards} to test on")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="the same for the encoder freshly initialised, and the difference to it",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of all that is drawn")
    parser.add_argument("--out", type=Path, help=OUT)
    device_option(parser)
    parser.add_argument("--workers", type=natural, default=0, help="decoding processes")
