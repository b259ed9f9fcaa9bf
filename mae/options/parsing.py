"""What the options of all commands share."""

import argparse
from pathlib import Path
from typing import Any


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def command(commands: Any, module: str, name: str, text: str) -> argparse.ArgumentParser:
    """A command whose work is done in mae/commands/MODULE.py, by the function of its name."""
    added = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=_Help
    )
    added.set_defaults(command=name.replace("-", "_"), module=module)
    return added


def cache_options(parser: argparse.ArgumentParser) -> None:
    """Where remote shards are kept."""
    parser.add_argument("--cache-dir", type=Path, help="of remote shards (as data.cache_dir)")
    parser.add_argument("--cache-gb", type=amount, help="its size at most (as data.cache_gb)")
    parser.add_argument("--allow-pipe", action="store_true", help="run pipe:COMMAND shards")


def device_option(parser: argparse.ArgumentParser) -> None:
    """Where the model works."""
    parser.add_argument("--device", default="auto", help="cuda, cpu …; auto: a GPU if there is one")


def positive(text: str) -> int:
    """1, 2, 3 …."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def natural(text: str) -> int:
    """0, 1, 2 … below 2**63."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 2**63)")
    return value


def amount(text: str) -> float:
    """A positive, finite number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def percent(text: str) -> int:
    """1 to 100."""
    value = int(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not in 1..100")
    return value


def share(text: str) -> float:
    """0 to 1, without 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value
