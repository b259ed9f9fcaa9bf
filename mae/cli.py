"""The command line: `mae COMMAND …`.

Only parsing here: what the commands do, and torch with it, is imported once one is called for.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mae import __version__
from mae.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "pretrain":  # its settings are no options of ours
        from mae import pretrain

        return pretrain.main(argv[1:])
    args = build_parser().parse_args(argv)
    from mae import commands

    try:
        getattr(commands, args.command)(args)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmae: interrupted", file=sys.stderr)
        return 1
    return 0


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mae", description="Masked Autoencoder pretraining of Vision Transformers."
    )
    parser.add_argument("--version", action="version", version=f"mae {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=_Help,
        )
        added.set_defaults(command=name)
        return added

    commands.add_parser("pretrain", help="pretrain, or continue a run (one process)")

    pack = command("pack", "pack a folder of images into shards")
    pack.add_argument("source", type=Path, help="folder of JPEG and PNG images, searched below")
    pack.add_argument("out", type=Path, help="new folder for the shards")
    pack.add_argument("--shard-size", type=_positive, default=1000, help="images per shard")
    pack.add_argument("--val", type=_share, default=0.0, help="share set aside as val-*.tar")
    pack.add_argument("--seed", type=_natural, default=0, help="of the shuffle")
    pack.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="top-level folders are classes (default: where no image lies outside of one)",
    )

    index = command("index", "read and cache the index of shards, and sum it up")
    index.add_argument("shards", nargs="+", help="tars: paths, brace patterns, globs")
    index.add_argument("--index-dir", type=Path, help="cache folder (beside the shards if unset)")

    export = command("export", "export the encoder of a run")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", choices=["timm"], default="timm", help="whose format")

    probe = command("probe", "linear probe on frozen features of labelled shards")
    probe.add_argument("run", type=Path, help="run folder")
    probe.add_argument("--train", nargs="+", required=True, help="labelled shards to fit on")
    probe.add_argument("--test", nargs="+", required=True, help="labelled shards to test on")
    probe.add_argument(
        "--per-class", type=_positive, nargs="*", default=[], help="also with so few labels"
    )
    probe.add_argument(
        "--splits", type=_positive, default=5, help="repetitions, each meeting the test set once"
    )
    probe.add_argument(
        "--baselines", action="store_true", help="probe the untrained encoder and pixels too"
    )
    probe.add_argument("--seed", type=_natural, default=0, help="of the splits")
    probe.add_argument("--out", type=Path, help="JSON file (RUN/probe.json if unset)")
    _device_option(probe)
    probe.add_argument("--workers", type=_natural, default=0, help="decoding processes")

    show = command("reconstruct", "reconstruction panel and R² on hidden patches")
    show.add_argument("run", type=Path, help="run folder")
    show.add_argument("images", nargs="+", help="images, or shards")
    show.add_argument("--out", type=Path, help="PNG (RUN/reconstruction.png if unset)")
    show.add_argument("--count", type=_positive, default=8, help="images on the panel")
    show.add_argument("--r2-images", type=_positive, default=512, help="images for R², at most")
    show.add_argument("--seed", type=_natural, default=0, help="of the masks")
    _device_option(show)
    return parser


def _device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cuda, cpu …; auto: a GPU if there is one")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 2**63)")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


if __name__ == "__main__":
    sys.exit(main())
