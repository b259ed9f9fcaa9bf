"""Options of `mae bench`."""

import argparse
from pathlib import Path
from typing import Any

from mae.base.device import usable_cores
from mae.options.parsing import amount, command, device_option, natural, positive

ENCODER, DECODER_DEPTH = "vit_base_patch16_224", 8
"""what is measured where neither an encoder nor a file of settings is named"""
MODES = ("eager", "compile", "reduce-overhead", "max-autotune")


def add_bench_commands(commands: Any) -> None:
    """`mae bench`, and all it measures."""
    bench = command(commands, "bench", "bench", "measure speed and memory")
    kinds = bench.add_subparsers(title="what", required=True, metavar="WHAT")

    step = command(kinds, "bench", "step", "the training step on synthetic images")
    _config_option(step)
    step.add_argument("--models", nargs="+", help=f"encoders by their timm names ({ENCODER})")
    step.add_argument(
        "--decoder-depths",
        nargs="+",
        type=positive,
        help=f"blocks of the decoder ({DECODER_DEPTH})",
    )
    step.add_argument(
        "--variants",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE[,…]",
        help="the same with other settings, such as model.decoder_attention=cross",
    )
    step.add_argument("--plot", type=Path, help="PNG: images/s and memory over batch size")
    step_options(step, [8, 16, 32], ["eager", "compile"])

    joint = command(kinds, "bench", "joint", "the training loop on shards, beside its step alone")
    joint.add_argument("shards", nargs="+", help="tars of colour images")
    _case_options(joint)
    joint.add_argument("--workers", type=natural, default=usable_cores(), help="data.workers")
    joint.add_argument(
        "--on-device",
        choices=["crop", "decode"],
        default="",
        help="data.crop_on_device=true or data.decode_on_device=true",
    )
    joint.add_argument("--index-dir", type=Path, help="cache folder of the indexes")

    lengths = command(
        kinds, "bench", "attention", "torch's kernels of attention, for train.attention"
    )
    _case_options(lengths)

    shares = command(kinds, "bench", "profile", "where the time of a training step goes")
    _case_options(shares)

    added = command(kinds, "bench", "overhead", "what guard, metrics and panels add to a step")
    added.add_argument("config", help="YAML file of settings, such as configs/demo_digits.yaml")
    added.add_argument("settings", nargs="*", metavar="section.key=value", help="override one")
    added.add_argument("--rounds", type=positive, default=21, help="of off and on in turn")
    added.add_argument("--out", type=Path, help="JSON file; the table goes beside it, as .md")

    loader = command(kinds, "bench", "loader", "speed from shards to batches")
    loader_options(loader)

    pixels = command(
        kinds, "bench", "decode", "JPEGs to pixels, by our decoder and by nvImageCodec"
    )
    pixels.add_argument("shards", nargs="+", help="tars of JPEGs")
    pixels.add_argument("--images", type=positive, default=512, help="the same in each round")
    pixels.add_argument(
        "--batch-size", type=positive, default=128, help="images nvImageCodec decodes at once"
    )
    pixels.add_argument("--rounds", type=positive, default=7, help="of all decoders in turn")
    pixels.add_argument("--quick", action="store_true", help="a few images, for a first look")
    pixels.add_argument("--out", type=Path, help="JSON file; the table goes beside it, as .md")
    device_option(pixels)

    soak = command(kinds, "bench", "soak", "memory of the loader over many samples")
    _shards_options(soak)
    soak.add_argument("--samples", type=positive, default=200_000, help="so many")


def loader_options(parser: argparse.ArgumentParser) -> None:
    """Of `mae bench loader`, and of its comparison with other pipelines."""
    _shards_options(parser)
    parser.add_argument("--short", nargs="+", default=[], help="the same, packed with --resize")
    parser.add_argument("--images", type=positive, default=512, help="per round")
    parser.add_argument("--rounds", type=positive, default=7, help="of all pipelines in turn")
    parser.add_argument("--repeats", type=positive, default=4, help="views per decoding")
    parser.add_argument("--quick", action="store_true", help="a few images, for a first look")


def _shards_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", help="tars of 8-bit colour images")
    parser.add_argument("--img-size", type=positive, default=224, help="pixels")
    parser.add_argument("--batch-size", type=positive, default=64, help="images")
    parser.add_argument("--workers", type=natural, help="processes (all cores if unset)")
    parser.add_argument("--out", type=Path, help="JSON file")


def step_options(parser: argparse.ArgumentParser, batch_sizes: list[int], modes: list[str]) -> None:
    """Batches and modes of steps, and how long each is measured."""
    parser.add_argument(
        "--batch-sizes", nargs="+", type=positive, default=batch_sizes, help="images of a step"
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=modes,
        metavar="MODE",
        help=f"of {', '.join(MODES)} (the last two: CUDA graphs; the last searches for minutes)",
    )
    _effort_options(parser)


def _case_options(parser: argparse.ArgumentParser) -> None:
    """A model, by a file of settings or an encoder, and one batch."""
    _config_option(parser)
    encoder_options(parser)
    parser.add_argument(
        "--settings", default="", metavar="SECTION.KEY=VALUE[,…]", help="other settings"
    )


def encoder_options(parser: argparse.ArgumentParser) -> None:
    """An encoder with a decoder, and one batch."""
    parser.set_defaults(config="", settings="")
    parser.add_argument("--model", help=f"encoder by its timm name ({ENCODER})")
    parser.add_argument(
        "--decoder-depth", type=positive, help=f"blocks of the decoder ({DECODER_DEPTH})"
    )
    parser.add_argument("--batch-size", type=positive, default=64, help="images of a step")
    parser.add_argument("--mode", choices=MODES, default="eager", help="how it is compiled")
    _effort_options(parser)


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        default="",
        metavar="YAML",
        help="settings of the model to measure, of any objective (RUN/config.yaml is such a file)",
    )


def _effort_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--img-size", type=positive, help="pixels (the encoder's if unset)")
    parser.add_argument(
        "--precision", choices=["auto", "bf16", "fp32"], default="auto", help="as train.precision"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="of all cases in turn")
    parser.add_argument("--seconds", type=amount, default=2.0, help="of each case in a round")
    parser.add_argument(
        "--at-once", type=positive, default=1, help="processes that get ready at the same time"
    )
    parser.add_argument("--quick", action="store_true", help="2 short rounds, for a first look")
    parser.add_argument("--out", type=Path, help="JSON file; the table goes beside it, as .md")
    device_option(parser)
