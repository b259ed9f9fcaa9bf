"""The command line: `mae COMMAND …`.

Only parsing here: what the commands do, and torch with it, is imported once one is called for.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae import __version__
from mae.errors import RunFailed, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "pretrain":  # its settings are no options of ours
        if "--supervise" in argv:
            from mae import supervise

            rest = [word for word in argv[1:] if word != "--supervise"]
            return supervise.main([sys.executable, "-m", "mae.pretrain", *rest])
        from mae import pretrain

        return pretrain.main(argv[1:])
    args = build_parser().parse_args(argv)
    module = importlib.import_module(f"mae.{args.module}")
    try:
        getattr(module, args.command)(args)
        sys.stdout.flush()  # here, where a reader that is gone can still be told of
    except BrokenPipeError:  # `mae index … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        for line in str(error).splitlines():
            print(f"mae: {line}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"mae: {error}", file=sys.stderr)
        return 1
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
    commands.add_parser("pretrain", help="pretrain, or continue a run (one process)")
    _add_data_commands(commands)
    _add_run_commands(commands)
    return parser


def _command(commands: Any, module: str, name: str, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    added.set_defaults(command=name.replace("-", "_"), module=module)
    return added


def _add_data_commands(commands: Any) -> None:
    pack = _command(commands, "data_commands", "pack", "pack images into shards")
    pack.add_argument(
        "sources",
        nargs="+",
        help="a folder, searched below; a .csv, .tsv or .parquet of paths; torchvision:NAME; tars",
    )
    pack.add_argument("out", type=Path, help="new folder for the shards")
    pack.add_argument("--shard-size", type=_positive, default=1000, help="images per shard")
    pack.add_argument("--shard-mb", type=_amount, help="megabytes per shard, at most")
    pack.add_argument("--val", type=_share, default=0.0, help="share set aside as val-*.tar")
    pack.add_argument("--seed", type=_natural, default=0, help="of the shuffle")
    pack.add_argument("--workers", type=_natural, default=_cores(), help="processes")
    pack.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="top-level folders are classes (default: where no image lies outside of one)",
    )
    pack.add_argument("--path-column", default="path", help="of a table")
    pack.add_argument("--label-column", help="of a table (`label`, if there is one)")
    pack.add_argument(
        "--root", type=Path, default=Path("data"), help="torchvision's folder, for downloads too"
    )
    pack.add_argument(
        "--resize",
        type=_positive,
        help="reduce the short side to so many pixels (of .npy: the channels are the first or the "
        "last axis, whichever is clearly the shorter)",
    )
    pack.add_argument("--quality", type=_percent, help="re-encode as JPEG of this quality")
    pack.add_argument("--drop-duplicates", action="store_true", help="leave exact copies out")
    _cache_options(pack)

    index = _command(commands, "data_commands", "index", "read and cache the index of shards")
    index.add_argument("shards", nargs="+", help="tars: paths, addresses, brace patterns, globs")
    index.add_argument("--index-dir", type=Path, help="cache folder (beside the shards if unset)")
    index.add_argument("--stats", action="store_true", help="measure mean and std of the pixels")
    index.add_argument("--wds2idx", action="store_true", help="write .idx files for NVIDIA DALI")
    index.add_argument("--wids", type=Path, help="write this index.json for webdataset's wids")
    _cache_options(index)

    verify = _command(commands, "data_commands", "verify", "decode everything, name what is bad")
    verify.add_argument("shards", nargs="+", help="tars: paths, addresses, brace patterns, globs")
    verify.add_argument("--index-dir", type=Path, help="cache folder of the indexes")
    verify.add_argument("--workers", type=_natural, default=_cores(), help="processes")
    _cache_options(verify)

    bench = _command(commands, "data_commands", "bench", "measure speed, beside other pipelines")
    bench.add_argument(
        "what",
        choices=["loader", "soak"],
        help="loader: speed from shards to batches; soak: memory over many samples",
    )
    bench.add_argument("shards", nargs="+", help="tars of 8-bit colour images")
    bench.add_argument("--short", nargs="+", default=[], help="the same, packed with --resize")
    bench.add_argument("--img-size", type=_positive, default=224, help="pixels")
    bench.add_argument("--images", type=_positive, default=512, help="per round")
    bench.add_argument("--batch-size", type=_positive, default=64, help="images")
    bench.add_argument("--rounds", type=_positive, default=7, help="of all pipelines in turn")
    bench.add_argument("--repeats", type=_positive, default=4, help="views per decoding")
    bench.add_argument("--workers", type=_natural, help="processes (all cores if unset)")
    bench.add_argument("--quick", action="store_true", help="a few images, for a first look")
    bench.add_argument("--samples", type=_positive, default=200_000, help="soak: so many")
    bench.add_argument("--out", type=Path, help="JSON file")


def _add_run_commands(commands: Any) -> None:
    export = _command(commands, "commands", "export", "export the encoder of a run")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", choices=["timm"], default="timm", help="whose format")

    probe = _command(
        commands, "commands", "probe", "linear probe on frozen features of labelled shards"
    )
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

    show = _command(
        commands, "commands", "reconstruct", "reconstruction panel and R² on hidden patches"
    )
    show.add_argument("run", type=Path, help="run folder")
    show.add_argument("images", nargs="+", help="images, or shards")
    show.add_argument("--out", type=Path, help="PNG (RUN/reconstruction.png if unset)")
    show.add_argument("--count", type=_positive, default=8, help="images on the panel")
    show.add_argument("--r2-images", type=_positive, default=512, help="images for R², at most")
    show.add_argument("--seed", type=_natural, default=0, help="of the masks")
    _device_option(show)

    inspect = _command(
        commands, "commands", "inspect-batch", "name and show the images of one training step"
    )
    inspect.add_argument("run", type=Path, help="run folder")
    inspect.add_argument("step", type=_positive, help="as the progress line and events count")
    inspect.add_argument("--count", type=_positive, default=64, help="images on the picture")
    inspect.add_argument("--out", type=Path, help="PNG (RUN/batch-STEP.png if unset)")

    report = _command(commands, "commands", "report", "write a page on how a run is doing")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument("--out", type=Path, help="HTML file (RUN/report.html if unset)")


def _cores() -> int:
    """Those that this process may use; without torch, which `default_workers` would bring."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache-dir", type=Path, help="of remote shards (as data.cache_dir)")
    parser.add_argument("--cache-gb", type=_amount, help="its size at most (as data.cache_gb)")
    parser.add_argument("--allow-pipe", action="store_true", help="run pipe:COMMAND shards")


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


def _amount(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _percent(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not in 1..100")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


if __name__ == "__main__":
    sys.exit(main())
