"""Reference of the command line, from its parser."""

import argparse
import contextlib
import importlib
import io
from collections.abc import Iterator

from mae.cli import ENTRY_POINTS, build_parser

from .markdown import code, plain, table

WIDTH = 92
"""characters in a line of a usage"""
SETTINGS = "settings (section.key"
"""beginning of the list of settings in the help of an entry point"""


def commands_page() -> str:
    """Markdown of all commands: usage, options, meaning."""
    parser = build_parser()
    subparsers = _subparsers(parser)
    if subparsers is None:
        raise AssertionError("mae has no commands")
    lines = [_summary(subparsers), ""]
    for name, one in subparsers.choices.items():
        text = _entry_point(name) if name in ENTRY_POINTS else command_entry(one, f"mae {name}", 2)
        lines += [text, ""]
    return "\n".join(lines)


def _summary(subparsers: argparse._SubParsersAction) -> str:
    """Table of the commands, each with its line of help."""
    rows = [
        (f"[`mae {action.dest}`](#mae-{action.dest})", plain(action.help or ""))
        for action in subparsers._choices_actions
    ]
    return table(("command", "purpose"), rows)


def _entry_point(name: str) -> str:
    """`mae pretrain` or `mae finetune`: their own help, without the settings."""
    output = io.StringIO()
    main = importlib.import_module(f"mae.{name}").main
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(["--help"])
    text = output.getvalue().partition(SETTINGS)[0].rstrip()
    see = "All settings: [SETTINGS.md](SETTINGS.md)."
    return f"## mae {name}\n\n```text\n{text}\n```\n\n{see}"


def command_entry(parser: argparse.ArgumentParser, name: str, level: int) -> str:
    """Heading, description, usage and options of a command, and its subcommands."""
    formatter = argparse.HelpFormatter(name, width=WIDTH)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    usage = formatter.format_help().strip()
    lines = [f"{'#' * level} {name}", "", plain(parser.description or ""), ""]
    lines += ["```text", usage, "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _is_shown(action)]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            lines += [f"**{plain(group.title or '')}.** {plain(group.description or '')}", ""]
        rows = [(code(_invocation(action)), plain(_meaning(parser, action))) for action in actions]
        lines += [table(("argument", "meaning"), rows), ""]
    if parser.epilog:
        lines += [plain(parser.epilog), ""]
    subparsers = _subparsers(parser)
    for word, one in subparsers.choices.items() if subparsers else ():
        lines += [command_entry(one, f"{name} {word}", level + 1), ""]
    return "\n".join(lines)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    of_kind = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return next(of_kind, None)


def _is_shown(action: argparse.Action) -> bool:
    """True for arguments of the command itself, other than --help."""
    is_other = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not is_other and action.help is not argparse.SUPPRESS


def _invocation(action: argparse.Action) -> str:
    """`RUN`, or `--test SHARDS [SHARDS ...]`."""
    formatter = argparse.HelpFormatter("mae")
    if not action.option_strings:
        return formatter._metavar_formatter(action, action.dest)(1)[0]
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = formatter._format_args(action, action.dest.upper())
    return f"{', '.join(action.option_strings)} {value}"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Help of an argument, with its default."""
    return " ".join(_parts(parser, action))


def _parts(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    if action.required and action.option_strings:
        yield "(required)"
    yield parser._get_formatter()._expand_help(action) if action.help else ""
