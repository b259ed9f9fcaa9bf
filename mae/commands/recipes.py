"""`mae recipes`: the shipped recipes and launcher files, to use by name or to copy and edit."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae.base.errors import UserError
from mae.commands.encoders import add_encoders
from mae.commands.options import add_command
from mae.config.recipes import AUTO, did_you_mean, header, launchers, matching, recipes

COMMANDS = {
    "mae pretrain": "mae pretrain NAME data.train=DATA   (a folder of images, or shards)",
    "mae finetune": "mae finetune RUN NAME               (RUN: a pretraining)",
}
"""commands that train recipes, and how they are called"""
AUTO_USAGE = "mae pretrain auto data.train=DATA   (settings chosen from your images and machine)"
ABOUT_AUTO = """\
auto is no file: mae pretrain auto chooses model, image size, batch, learning rate and epochs from
the images of data.train and from this machine, prints each choice with its reason, and records them
in the config.yaml of the run, from which the same command resumes.

mae pretrain auto data.train=photos --dry-run        shows the plan and its measured speed, no more
mae pretrain auto data.train=photos output=runs/photos
mae pretrain auto data.train=photos auto.hours=4     plans for 4 hours (default: 1 on CPUs, else 24)

Any section.key=value replaces a choice; what depends on it follows.  Of a folder of 400 images or
more about 5 % are held out, unless data.val or data.val_share is given.
docs/CHOOSING.md has the rules and their evidence.
"""
FOOTER = """\
A beginning that fits one recipe alone is enough: mae pretrain vit_small …
mae recipes show NAME > my.yaml    copies one to edit; a file is given by its path
mae recipes launchers              lists files for accelerate launch and SLURM"""


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = add_command(commands, "recipes", "list the recipes, or print one", list_recipes)
    kinds = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND")
    text = "print a recipe or launcher file, to copy and edit"
    show = kinds.add_parser("show", help=text, description=f"{text.capitalize()}.")
    show.add_argument(
        "name", help="name of a recipe or its beginning, auto, or name of a launcher file"
    )
    show.set_defaults(work=show_recipe)
    text = "list the launcher files, or print the path of one"
    files = kinds.add_parser("launchers", help=text, description=f"{text.capitalize()}.")
    files.add_argument("name", nargs="?", help="name of a launcher file, such as multi_gpu")
    files.set_defaults(work=list_launchers)
    add_encoders(kinds)


def list_recipes(args: argparse.Namespace) -> None:
    """Print the recipes of each command: name, image size, hardware, summary."""
    every = recipes()
    print(AUTO_USAGE)
    for command, usage in COMMANDS.items():
        rows = [
            (one.name, f"{one.img_size} px" if one.img_size else "–", one.hardware, one.summary)
            for one in every
            if one.command == command
        ]
        names, sizes, hardware = (max(len(row[i]) for row in rows) for i in range(3))
        print(usage)
        for name, size, machine, summary in rows:
            print(f"  {name:{names}}  {size:>{sizes}}  {machine:{hardware}}  {summary}")
        print()
    print(FOOTER)


def show_recipe(args: argparse.Namespace) -> None:
    """Print a recipe, a launcher file or what auto does; UserError where none has the name."""
    if args.name == AUTO:
        print(ABOUT_AUTO, end="")
        return
    every = recipes()
    for command in COMMANDS:
        found = matching(args.name, [one for one in every if one.command == command])
        if len(found) == 1:
            print(found[0].text, end="")
            return
        if found:
            names = ", ".join(one.name for one in found)
            raise UserError(f"{args.name}: several recipes begin so: {names}")
    files = launchers()
    names = [AUTO, *(one.name for one in every), *(file.name for file in files)]
    print(_launcher(args.name, files, names).read_text(), end="")


def list_launchers(args: argparse.Namespace) -> None:
    """Print the paths of the launcher files with a line on each, or the path of one alone."""
    files = launchers()
    if args.name is not None:
        print(_launcher(args.name, files, [file.name for file in files]))
        return
    for file in files:
        print(file)
        print(f"    {' '.join(header(file.read_text())).partition('. ')[0].rstrip('.')}")
    print('accelerate launch --config_file "$(mae recipes launchers multi_gpu)" -m mae.pretrain …')


def _launcher(name: str, files: Sequence[Path], known: Sequence[str]) -> Path:
    """The launcher file of this name, with or without its suffix."""
    for file in files:
        if name in (file.name, file.stem):
            return file
    raise UserError(f"{name}: no such recipe or file: {did_you_mean(name, known)}")
