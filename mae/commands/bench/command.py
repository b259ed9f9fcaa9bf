"""Parser of `mae bench`; the work of each subcommand is in the module of its name."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from mae.base.device import usable_cores
from mae.commands.argument_types import amount, natural, positive
from mae.commands.options import add_command, device_option

ENCODER, DECODER_DEPTH = "vit_base_patch16_224", 8
"""measured where neither --model(s), --decoder-depth(s) nor --config are given"""
MODES = ("eager", "compile", "reduce-overhead", "max-autotune")


def add_parser(commands: Any) -> None:
    """Add `mae bench` and its subcommands."""
    bench = add_command(commands, "bench", "measure speed and memory of training", None)
    kinds = bench.add_subparsers(title="measurements", required=True, metavar="MEASUREMENT")

    step = _subcommand(kinds, "step", "speed and memory of the training step on synthetic images")
    _config_option(step)
    step.add_argument("--models", nargs="+", help=f"timm names of the encoders ({ENCODER})")
    step.add_argument(
        "--decoder-depths",
        nargs="+",
        type=positive,
        help=f"numbers of decoder blocks ({DECODER_DEPTH})",
    )
    step.add_argument(
        "--variants",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE[,…]",
        help="settings to compare with the defaults, such as model.decoder_attention=cross",
    )
    step.add_argument("--plot", type=Path, help="PNG of images/s and memory over the batch size")
    step_options(step, [8, 16, 32], ["eager", "compile"])

    joint = _subcommand(
        kinds, "joint", "speed of a training run on shards, compared with its training step alone"
    )
    joint.add_argument("shards", nargs="+", help="tar files of colour images")
    _case_options(joint)
    joint.add_argument(
        "--workers", type=natural, default=usable_cores(), help="data workers, as data.workers"
    )
    joint.add_argument(
        "--on-device",
        choices=["crop", "decode"],
        default="",
        help="data.crop_on_device=true or data.decode_on_device=true",
    )
    joint.add_argument("--index-dir", type=Path, help="cache folder of the shards' indexes")

    attention = _subcommand(
        kinds,
        "attention",
        "speed of torch's attention kernels (train.attention) at a model's sequence lengths",
    )
    _case_options(attention)

    profile = _subcommand(
        kinds, "profile", "time of each kind of operation in a training step (torch's profiler)"
    )
    _case_options(profile)

    loader = _subcommand(kinds, "loader", "speed of data loading, from shards to batches")
    loader_options(loader)

    decode = _subcommand(
        kinds, "decode", "speed of JPEG decoding on the CPU and by nvImageCodec, and their pixels"
    )
    decode.add_argument("shards", nargs="+", help="tar files of JPEGs")
    decode.add_argument(
        "--images", type=positive, default=512, help="number of images, the same in each round"
    )
    decode.add_argument(
        "--batch-size", type=positive, default=128, help="images that nvImageCodec decodes at once"
    )
    decode.add_argument("--rounds", type=positive, default=7, help="rounds of all decoders in turn")
    decode.add_argument("--quick", action="store_true", help="64 images in 2 rounds")
    out_option(decode)
    device_option(decode)


def loader_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mae bench loader`, which `python -m benchmarks.loader` takes too."""
    shards_options(parser)
    parser.add_argument(
        "--short", nargs="+", default=[], help="shards of the same images, packed with --resize"
    )
    parser.add_argument("--images", type=positive, default=512, help="number of images of a round")
    parser.add_argument(
        "--rounds", type=positive, default=7, help="rounds of all pipelines in turn"
    )
    parser.add_argument(
        "--repeats", type=positive, default=4, help="views of each decoded image, as data.repeats"
    )
    parser.add_argument("--quick", action="store_true", help="64 images in 2 rounds")


def shards_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a measurement of the loader: shards, batches, workers, result."""
    parser.add_argument("shards", nargs="+", help="tar files of 8-bit colour images")
    parser.add_argument(
        "--img-size", type=positive, default=224, help="height and width of the views in pixels"
    )
    parser.add_argument("--batch-size", type=positive, default=64, help="images of a batch")
    parser.add_argument("--workers", type=natural, help="data workers (default: one for each core)")
    parser.add_argument("--out", type=Path, help="JSON file of the result")


def step_options(parser: argparse.ArgumentParser, batch_sizes: list[int], modes: list[str]) -> None:
    """Add batch sizes and modes of training steps, and the options of a comparison in rounds."""
    parser.add_argument(
        "--batch-sizes", nargs="+", type=positive, default=batch_sizes, help="images of a step"
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=modes,
        metavar="MODE",
        help=f"{', '.join(MODES)} (the last two use CUDA graphs; max-autotune compiles for "
        "minutes)",
    )
    _effort_options(parser)


def encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add encoder, decoder, batch and mode of one training step."""
    parser.set_defaults(config="", settings="")
    parser.add_argument("--model", help=f"timm name of the encoder ({ENCODER})")
    parser.add_argument(
        "--decoder-depth", type=positive, help=f"number of decoder blocks ({DECODER_DEPTH})"
    )
    parser.add_argument("--batch-size", type=positive, default=64, help="images of a step")
    parser.add_argument(
        "--mode", choices=MODES, default="eager", help="eager, or a mode of train.compile"
    )
    _effort_options(parser)


def out_option(parser: argparse.ArgumentParser) -> None:
    """Add --out for a result that is written as JSON and as a Markdown table."""
    parser.add_argument(
        "--out", type=Path, help="JSON file of the result; the table is written next to it as .md"
    )


def _subcommand(kinds: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Add `mae bench NAME`, whose work is `run` in the module of that name."""

    def run(args: argparse.Namespace) -> int | None:
        return importlib.import_module(f"mae.commands.bench.{name}").run(args)

    return add_command(kinds, name, text, run)


def _case_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of one training step, its model from a config file or by encoder name."""
    _config_option(parser)
    encoder_options(parser)
    parser.add_argument(
        "--settings", default="", metavar="SECTION.KEY=VALUE[,…]", help="further settings"
    )


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default="",
        metavar="RECIPE",
        help="model to measure, of any objective: a recipe's name, or a YAML file, such as "
        "RUN/config.yaml",
    )


def _effort_options(parser: argparse.ArgumentParser) -> None:
    """Add image size, precision and the length of a measurement."""
    parser.add_argument(
        "--img-size", type=positive, help="height and width in pixels (default: the encoder's)"
    )
    parser.add_argument(
        "--precision", choices=["auto", "bf16", "fp32"], default="auto", help="as train.precision"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="rounds of all cases in turn")
    parser.add_argument("--seconds", type=amount, default=2.0, help="seconds of a case in a round")
    parser.add_argument(
        "--at-once", type=positive, default=1, help="processes that warm up at the same time"
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.2 seconds")
    out_option(parser)
    device_option(parser)
