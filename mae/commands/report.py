"""`mae report`: a run as one HTML page."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.options import add_command


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "report", "write an HTML page on a run", run)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="HTML file (default: RUN/report.html)")


def run(args: argparse.Namespace) -> None:
    """Write the page; print its path."""
    from mae.report.page import write_report

    print(write_report(args.run, args.out or args.run / "report.html"))
