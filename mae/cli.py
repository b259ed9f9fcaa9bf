"""Command line of `mae`: the list of commands, and their dispatch.

Only parsing is imported here; the work of a command, and torch with it, once it runs.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from mae import __version__
from mae.base.device import idle_gpus
from mae.base.errors import UserError
from mae.base.exit_status import WRONG_USE, exit_code
from mae.base.local_launch import OPTION, launched, processes_option, split_processes
from mae.base.output import guarded_output
from mae.base.portion import leave_launch
from mae.base.progress import shown_imports
from mae.base.quick_exit import exit_quickly
from mae.commands import (
    anomaly,
    attention,
    attentive,
    compress,
    decompress,
    denoise,
    duplicates,
    edit,
    embed,
    evaluate,
    explore,
    export,
    features,
    fewshot,
    index,
    inspect_batch,
    interpolate,
    knn,
    latents,
    neighbours,
    pack,
    pca,
    probe,
    recipes,
    reconstruct,
    report,
    sae_report,
    sample,
    search,
    segment,
    supervise,
    verify,
)
from mae.commands.bench import command as bench

DISTRIBUTION = "maekit"
"""name of this distribution on the index, where `mae` is another project's"""
ENTRY_POINTS = {
    "pretrain": "pretrain, or resume a run",
    "finetune": "fine-tune a pretrained encoder to classes",
}
"""commands with a parser and a module `mae.NAME` of their own, which accelerate launches, too"""
COMMANDS = (
    recipes,
    supervise,
    pack,
    index,
    verify,
    inspect_batch,
    report,
    reconstruct,
    sample,
    interpolate,
    edit,
    latents,
    denoise,
    compress,
    decompress,
    anomaly,
    attention,
    pca,
    neighbours,
    explore,
    search,
    embed,
    duplicates,
    sae_report,
    features,
    knn,
    probe,
    fewshot,
    attentive,
    segment,
    evaluate,
    export,
    bench,
)
"""modules of all other commands, in the order of `mae --help`"""
DIVIDED = (
    "pack",
    "index",
    "verify",
    "features",
    "knn",
    "probe",
    "fewshot",
    "attentive",
    "segment",
    "evaluate",
    "reconstruct",
    "denoise",
    "compress",
    "decompress",
    "anomaly",
    "embed",
    "duplicates",
    "latents",
    "sae_report",
)
"""commands that several processes do together: those of --processes or of a launcher"""


@guarded_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
    argv = sys.argv[1:] if argv is None else argv
    if sys.platform == "win32":
        print("mae: Windows itself is not supported: run it in WSL, its Linux", file=sys.stderr)
        return WRONG_USE
    if argv and argv[0] in ENTRY_POINTS:
        name, *words = argv
        if "--supervise" not in words:
            return importlib.import_module(f"mae.{name}").main(words)
        words = [word for word in words if word != "--supervise"]
        argv = ["supervise", sys.executable, "-m", f"mae.{name}", *words]
    is_other = bool(argv) and argv[0] == "supervise"  # its COMMAND has options of its own
    words, asked = (argv, None) if is_other else split_processes(argv)
    args = build_parser().parse_args(words)

    def check() -> None:
        refuse_several_processes(args, asked)

    def work() -> int | None:
        check()
        if encodes_here(args) and (line := idle_gpus()):
            print(line, file=sys.stderr)
        with shown_imports():
            return args.work(args)

    code = launched(asked, "mae", words, check, uses_gpus(args))
    if code is not None:
        return code
    try:
        return exit_code(work)
    finally:
        leave_launch()  # once an error is printed: it ends the other processes


def encodes_here(args: argparse.Namespace) -> bool:
    """True where all GPUs of the machine could take part: no job array, no features of files."""
    in_array = getattr(args, "part", None) or getattr(args, "join", False)
    is_of_files = getattr(args, "run", "") is None
    return args.command in DIVIDED and uses_gpus(args) and not in_array and not is_of_files


def uses_gpus(args: argparse.Namespace) -> bool:
    """True where the command computes on GPUs, if there are any."""
    return getattr(args, "device", "cpu") in ("auto", "cuda")


def refuse_several_processes(args: argparse.Namespace, asked: str | None) -> None:
    """Raise UserError where a command that does not divide its work gets several processes.

    They are `asked` for by --processes, or started by a launcher, and each would do all the work.
    """
    command, count = args.command.replace("_", "-"), os.environ.get("WORLD_SIZE", "1")
    if args.command in (*DIVIDED, "supervise"):
        return
    if asked is not None:
        raise UserError(f"{OPTION}: {command} runs in one process: leave the option out")
    if not count.isdecimal() or int(count) < 2:
        return
    raise UserError(
        f"{command} runs in one process, and each of {count} would do all of its work: start it "
        f"without the launcher, as mae {command} …"
    )


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mae",
        description="Self-supervised pretraining on your own images: masked autoencoders and "
        "other objectives.",
        epilog="`mae COMMAND --help` has the options of a command. A run on several GPUs: "
        "mae pretrain CONFIG --processes auto.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version of the program and exit"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in ENTRY_POINTS.items():
        commands.add_parser(name, help=text)
    for module in COMMANDS:
        module.add_parser(commands)
    for name in DIVIDED:
        processes_option(commands.choices[name.replace("_", "-")])
    return parser


class _Version(argparse.Action):
    """Prints the version, and a warning where the stranger's distribution `mae` is installed."""

    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> None:
        from importlib import metadata

        print(f"mae {__version__} (distribution {DISTRIBUTION})")
        with suppress(metadata.PackageNotFoundError):
            print(
                f"warning: another project, the distribution mae {metadata.version('mae')}, is "
                f"installed, too, and may have replaced files: pip uninstall mae, then pip install "
                f"--force-reinstall --no-deps {DISTRIBUTION}",
                file=sys.stderr,
            )
        parser.exit()


def run() -> NoReturn:
    """Entry point of the program `mae`."""
    exit_quickly(main)


if __name__ == "__main__":
    run()
