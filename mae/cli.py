"""Command line of `mae`: the list of commands, and their dispatch.

Only parsing is imported here; the work of a command, and torch with it, once it runs.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence

from mae import __version__
from mae.base.errors import UserError
from mae.base.exit_status import FIRST_PROCESS_SECONDS, exit_code
from mae.base.output import guarded_output
from mae.commands import (
    attention,
    attentive,
    evaluate,
    export,
    features,
    fewshot,
    index,
    inspect_batch,
    knn,
    neighbours,
    pack,
    pca,
    probe,
    reconstruct,
    report,
    sample,
    segment,
    supervise,
    verify,
)
from mae.commands.bench import command as bench

ENTRY_POINTS = {
    "pretrain": "pretrain, or resume a run (one process)",
    "finetune": "fine-tune a pretrained encoder to classes",
}
"""commands with a parser and a module `mae.NAME` of their own, which accelerate launches, too"""
COMMANDS = (
    supervise,
    pack,
    index,
    verify,
    inspect_batch,
    report,
    reconstruct,
    sample,
    attention,
    pca,
    neighbours,
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


@guarded_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ENTRY_POINTS:
        name, *words = argv
        if "--supervise" not in words:
            return importlib.import_module(f"mae.{name}").main(words)
        words = [word for word in words if word != "--supervise"]
        argv = ["supervise", sys.executable, "-m", f"mae.{name}", *words]
    args = build_parser().parse_args(argv)

    def work() -> int | None:
        refuse_several_processes(args)
        return args.work(args)

    return exit_code(work)


def refuse_several_processes(args: argparse.Namespace) -> None:
    """Raise UserError under a launcher of several processes, where each would do all the work.

    `attentive` and `probe --protocol mae` divide theirs.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    divides = args.command in ("attentive", "supervise") or getattr(args, "protocol", None) == "mae"
    if divides or not count.isdecimal() or int(count) < 2:
        return
    if os.environ.get("RANK", "0") != "0":
        time.sleep(FIRST_PROCESS_SECONDS)  # the first reports it alone; then the launcher ends all
    command = args.command.replace("_", "-")
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
        "accelerate launch -m mae.pretrain CONFIG.",
    )
    parser.add_argument("--version", action="version", version=f"mae {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in ENTRY_POINTS.items():
        commands.add_parser(name, help=text)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
