"""Options and option types shared by several commands; free of torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae.base.portion import Portion
    from mae.pretrained_weights.architecture import WeightOptions

from mae.commands.argument_types import amount, natural, part, positive
from mae.config.sections import OF_THIS_CALL, Config

TARS = "tar files: paths, URLs, brace patterns, globs"
SHARDS = f"{TARS}; or a folder of images"
"""images that are read with the settings of a run; the folder is packed once (data.packed_dir)"""
IMAGES = "image files; or shards or a folder of images"
"""images that are read with the settings of a run: files one by one, or as SHARDS"""
RUN = (
    "run folder or checkpoint, export, file of weights (.pth, .safetensors), folder of "
    "transformers, timm:NAME or hf:ID"
)
"""sources of a model, the same for all commands and for init.from"""
RESULTS = (
    "JSON file (default: RUN/COMMAND.json; for an export or a file of weights, in the folder "
    "NAME-evaluations beside it)"
)
CACHED = (
    "Features are encoded once and cached in RUN/features (safe to delete), which knn, probe, "
    "fewshot and attentive share; for an export or a file of weights, in "
    "NAME-evaluations/features beside it, or beside --out. Without RUN, --train and --test are "
    "files written by `mae features`."
)
"""epilog of the commands with `feature_options`"""
PROBE_RUN = (
    "It is trained as a run in RUN/{name}: the same command resumes it, and --processes N, or "
    "accelerate launch -m mae …, trains it on several processes."
)
"""epilog of probes that are trained as a run"""
SPLITS = 5
"""default of --splits"""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that prints a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def add_command(
    commands: Any,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int | None] | None,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Add the command `name`, with one line of help, to subparsers.

    Parsed arguments have `command` (the name, underscores for hyphens) and `work` (`run`; None: the
    command has subcommands with their own).
    """
    description = f"{text[0].upper()}{text[1:]}."
    parser = commands.add_parser(
        name, help=text, description=description, epilog=epilog, formatter_class=Help
    )
    parser.set_defaults(command=name.replace("-", "_"), work=run)
    return parser


def cache_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the cache for remote shards."""
    parser.add_argument(
        "--cache-dir", type=Path, help="cache folder for remote shards (as data.cache_dir)"
    )
    parser.add_argument(
        "--cache-gb", type=amount, help="maximum size of the cache in GB (as data.cache_gb)"
    )
    parser.add_argument(
        "--allow-pipe", action="store_true", help="allow shards pipe:COMMAND, which run COMMAND"
    )


def run_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add the cache options of commands that read images with the settings of a run.

    The run's own settings of this kind do not count: its folder may come from somebody else.
    """
    cache_options(parser)
    parser.add_argument(
        "--index-dir", type=Path, help="folder of cached shard indexes (as data.index_dir)"
    )
    parser.add_argument(
        "--packed-dir", type=Path, help="folder for packed folders of images (as data.packed_dir)"
    )


def with_own_cache(config: Config, args: argparse.Namespace) -> Config:
    """Settings of a run with the cache options of this call, see `run_cache_options`."""
    chosen = {name: value for name in OF_THIS_CALL if (value := getattr(args, name))}
    return config.model_copy(update={"data": config.data.model_copy(update=chosen)})


def device_option(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", help="cuda, cpu …; auto: a GPU if there is one")


def workers_option(parser: argparse.ArgumentParser, use: str = "decoding processes") -> None:
    """Add --workers, None by default: resolved where they start, and not in reports."""
    parser.add_argument(
        "--workers", type=natural, help=f"{use} (default: one for each core of this process)"
    )


def seed_option(parser: argparse.ArgumentParser, use: str = "random seed") -> None:
    """Add --seed."""
    parser.add_argument("--seed", type=natural, default=0, help=use)


def encoding_options(parser: argparse.ArgumentParser) -> None:
    """Add the device, data workers and batch size of encoding images."""
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)
    parser.add_argument(
        "--batch-size", type=positive, help="images encoded at a time (default: 256)"
    )


def portion_options(parser: argparse.ArgumentParser) -> None:
    """Add --part and --join, which divide the work among the tasks of a job array."""
    group = parser.add_argument_group(
        "several processes",
        "--processes N, or accelerate launch -m mae …, divides the work. A job array does so "
        "with --part I/N in each of its N tasks, in any order, and --join at the end; all of them "
        "with the same other options. An interrupted command goes on where it was.",
    )
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--part", type=part, metavar="I/N", help="do part I of N of the work, and no more"
    )
    chosen.add_argument("--join", action="store_true", help="join the parts of a job array")


def portion_of(args: argparse.Namespace) -> Portion:
    """Portion of the work that this process does: by `portion_options`, or by its launcher.

    Raises UserError for --part and --join under a launcher of several processes.
    """
    from mae.base.errors import UserError
    from mae.base.portion import Portion, launched_portion

    launched = launched_portion()
    if not (args.part or args.join):
        return launched
    if launched.count > 1:
        option = "--join" if args.join else "--part"
        raise UserError(f"{option}: is for job arrays; a launcher's processes divide the work")
    return Portion(is_join=True) if args.join else Portion(*args.part, is_task=True)


def run_argument(
    parser: argparse.ArgumentParser, is_optional: bool = False, reads_decoder: bool = False
) -> None:
    """Add RUN, and the options of weights that do not record their settings.

    `reads_decoder`: those of the decoder, too.
    """
    parser.add_argument("run", type=Path, nargs="?" if is_optional else None, help=RUN)
    weight_group(parser, reads_decoder)


def weight_group(parser: argparse.ArgumentParser, reads_decoder: bool = False) -> None:
    """Add the options of weights that do not record their settings."""
    group = parser.add_argument_group(
        "weights of others", "For a RUN that does not record these: a file of weights alone."
    )
    group.add_argument("--num-heads", type=positive, help="attention heads of the encoder")
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}",
            type=amount if name == "std" else float,
            nargs="+",
            metavar="NUMBER",
            help=f"{name} of the pixels in [0, 1], one number per channel (default: ImageNet's)",
        )
    if reads_decoder:
        group.add_argument(
            "--decoder-num-heads", type=positive, help="attention heads of the decoder"
        )
        group.add_argument(
            "--norm-pix-loss",
            action=argparse.BooleanOptionalAction,
            help="the decoder predicts pixels normalised within each patch, or plain ones",
        )


def feature_source_options(parser: argparse.ArgumentParser, is_optional: bool = False) -> None:
    """Add --with (`features`), the options of its weights, --feature, --channels and --bits."""
    parser.add_argument(
        "--with",
        dest="features",
        required=not is_optional,
        metavar="RUN",
        help=f"features: pixels (reduced to 16 x 16), or {RUN}",
    )
    weight_group(parser)
    pixel_options(parser)


def pixel_options(parser: argparse.ArgumentParser) -> None:
    """Add --feature, and --channels and --bits of images whose pixels are features."""
    parser.add_argument(
        "--feature",
        metavar="NAME",
        help="feature of the encoder, such as mean (default: its first)",
    )
    parser.add_argument(
        "--channels", type=positive, help="channels of images, for pixels (default: their own)"
    )
    parser.add_argument(
        "--bits", type=int, choices=(8, 16), help="bits of images, for pixels (default: their own)"
    )


def weight_options(args: argparse.Namespace) -> WeightOptions:
    """Options of `run_argument`, as given."""
    from mae.pretrained_weights.architecture import WeightOptions

    return WeightOptions(
        num_heads=args.num_heads,
        decoder_num_heads=getattr(args, "decoder_num_heads", None),
        norm_pix_loss=getattr(args, "norm_pix_loss", None),
        mean=tuple(args.mean or ()),
        std=tuple(args.std or ()),
    )


def feature_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of evaluations of cached features: RUN, data, baselines, encoding."""
    run_argument(parser, is_optional=True)
    parser.add_argument("--train", nargs="+", required=True, help="labelled: shards or a folder")
    parser.add_argument("--test", nargs="+", required=True, help="the same, to test on")
    parser.add_argument(
        "--classes", type=positive, help="number of classes: check that labels are below it"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="evaluate the untrained encoder and raw pixels too, with the difference to them",
    )
    seed_option(parser)
    parser.add_argument("--out", type=Path, help=RESULTS)
    encoding_options(parser)


def head_options(parser: argparse.ArgumentParser, images: str) -> None:
    """Add the options of evaluations that train a head on patch tokens; `images`: their kind."""
    run_argument(parser)
    parser.add_argument(
        "--train", nargs="+", required=True, help=f"{images} to train on: shards or a folder"
    )
    parser.add_argument(
        "--test", nargs="+", required=True, help=f"{images} to test on: shards or a folder"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="evaluate the untrained encoder too, with the difference to it",
    )
    seed_option(parser)
    parser.add_argument("--out", type=Path, help=RESULTS)
    device_option(parser)
    run_cache_options(parser)
    workers_option(parser)


def splits_option(parser: argparse.ArgumentParser) -> None:
    """Add --splits."""
    parser.add_argument(
        "--splits",
        type=positive,
        help=f"repetitions, each evaluated on the test set once (default: {SPLITS})",
    )


def picture_options(
    parser: argparse.ArgumentParser, name: str, reads_decoder: bool = False
) -> None:
    """Add the options of commands that write a picture, RUN/`name`.png unless --out is given."""
    run_argument(parser, reads_decoder=reads_decoder)
    parser.add_argument("images", nargs="+", help=IMAGES)
    parser.add_argument(
        "--out",
        type=Path,
        help=f"file ending in .png or .html (default: RUN/{name}.png, or in NAME-evaluations "
        "beside an export or a file of weights)",
    )
    parser.add_argument("--count", type=positive, default=8, help="maximum number of images shown")
    device_option(parser)
    run_cache_options(parser)
