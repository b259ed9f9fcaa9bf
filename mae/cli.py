"""The command line: `mae COMMAND …`.

Only parsing here: what the commands do, and torch with it, is imported once one is called for.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mae import __version__
from mae.base.exit_status import FAILED, exit_code
from mae.commands.bench.command import add_parser as add_bench_parser
from mae.options.data import add_data_commands
from mae.options.evaluation import add_evaluation_commands
from mae.options.export import add_export_commands
from mae.options.pictures import add_picture_commands
from mae.options.runs import add_run_commands
from mae.options.trained_probes import add_trained_probe_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("pretrain", "finetune"):  # their settings are no options of ours
        if "--supervise" in argv:
            from mae import supervise

            rest = [word for word in argv[1:] if word != "--supervise"]
            return supervise.main([sys.executable, "-m", f"mae.{argv[0]}", *rest])
        return importlib.import_module(f"mae.{argv[0]}").main(argv[1:])
    args = build_parser().parse_args(argv)
    module = importlib.import_module(f"mae.commands.{args.module}")

    def work() -> int | None:
        code = getattr(module, args.command)(args)
        sys.stdout.flush()  # here, where a reader that is gone can still be told of
        return code

    try:
        return exit_code(work)
    except BrokenPipeError:  # `mae index … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mae",
        description="Pretraining on your own unlabelled images: masked autoencoders first.",
    )
    parser.add_argument("--version", action="version", version=f"mae {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("pretrain", help="pretrain, or continue a run (one process)")
    commands.add_parser("finetune", help="fine-tune a pretrained encoder to classes")
    add_data_commands(commands)
    add_bench_parser(commands)
    add_run_commands(commands)
    add_picture_commands(commands)
    add_export_commands(commands)
    add_evaluation_commands(commands)
    add_trained_probe_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
