"""`mae report`: a run, or several beside each other, as one HTML page."""

import argparse
from pathlib import Path
from typing import Any

from mae.commands.options import add_command

COMPARISON = "comparison.html"
"""file on several runs, in the folder that holds the first"""


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "report",
        "write an HTML page on a run, or on several beside each other",
        run,
        "Of one run: diagnosis, curves, panels, events, bad images, settings, commands. Of "
        "several: their curves over each other, the settings that differ, their evaluations.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="run folders")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"HTML file (default: RUN/report.html; of several runs {COMPARISON} beside the first)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the page; print its path."""
    if len(args.runs) == 1:
        from mae.report.page import write_report

        print(write_report(args.runs[0], args.out or args.runs[0] / "report.html"))
        return
    from mae.report.comparison import write_comparison

    out = args.out or args.runs[0].resolve().parent / COMPARISON
    print(write_comparison(args.runs, out))
