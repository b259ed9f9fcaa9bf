"""Pretraining: `mae pretrain CONFIG [section.key=value …] [--processes N]`.

CONFIG is the name of a recipe (`mae recipes` lists them), or its beginning, or a YAML file.  With
auto the settings are chosen from the images of data.train and the machine, for auto.hours of
training, printed with their reasons, and recorded; section.key=value overrides any of them.
The same command resumes from the last checkpoint.  `accelerate launch -m mae.pretrain CONFIG …`
starts it on several machines, or with sharded weights (launch/).
"""

import argparse
import sys
from collections.abc import Sequence

from mae.base.errors import UserError
from mae.base.local_launch import launched, processes_option, split_processes
from mae.base.output import guarded_output
from mae.base.quick_exit import exit_quickly
from mae.config.sections import Config
from mae.config.settings_help import describe_settings, often_typed
from mae.training.auto import AUTO, checked, settings_of
from mae.training.start import start

COMMAND = "mae pretrain"


@guarded_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 failed, 2 wrong use, 75 stopped early."""
    parser = argparse.ArgumentParser(
        prog="mae pretrain",
        description=__doc__,
        epilog="settings (section.key = default):\n\n"
        + (describe_settings(COMMAND) + often_typed(COMMAND)).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="name of a recipe, YAML file of settings, or auto")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="settings to override"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check settings and data, run one step, estimate memory and time",
    )
    parser.add_argument(
        "--supervise", action="store_true", help="relaunch after crashes (`mae pretrain` only)"
    )
    processes_option(parser)
    words, asked = split_processes(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(words)

    def load() -> Config:
        if args.supervise:
            raise UserError("--supervise: use mae pretrain --supervise …, or mae supervise …")
        return settings_of(args.config, args.settings, COMMAND)

    def check() -> None:
        if args.config == AUTO:  # what it chooses and prints is the first process's work
            checked(args.settings, COMMAND)
        else:
            load()

    code = launched(asked, "mae.pretrain", words, check)
    return start(load, args.dry_run) if code is None else code


if __name__ == "__main__":
    exit_quickly(main)
